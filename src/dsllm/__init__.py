"""dsllm: make a language model the way DeepSeek LLM was made, from raw text to a chat model."""

__version__ = "0.1.0"
