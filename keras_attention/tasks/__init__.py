"""Tasks: a model with a tokenizer before it and an answer after it."""
