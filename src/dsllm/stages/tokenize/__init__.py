"""`dsllm tokenize`: learn a byte-level BPE tokenizer, and turn documents into token shards."""
