"""Walks over text: characters, words, shingles, features and pre-tokens."""
