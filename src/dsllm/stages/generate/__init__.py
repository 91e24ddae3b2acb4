"""Generation and chat: a model answers."""
