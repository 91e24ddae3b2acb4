"""`dsllm filter`: keep the documents of the wanted languages that look like good text."""
