"""The transformer: its sizes, its weights on disk, its counts and how it writes text."""
