"""The stages. They never import one another: they meet on disk."""
