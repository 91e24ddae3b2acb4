"""Direct preference optimization: pairs of answers in, an aligned model out."""
