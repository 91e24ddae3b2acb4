"""Evaluation on local files: multiple choice, generation, bits per byte."""
