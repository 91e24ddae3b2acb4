"""New proportions of the sources, and one shuffle over all of them."""
