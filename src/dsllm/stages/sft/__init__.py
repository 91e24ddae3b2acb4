"""Supervised fine-tuning: conversations in, a chat model out."""
