"""Pre-training: tokens in, a model folder out."""
