"""A `tokenizer.json` of any kind: each of its components as TensorFlow operations."""
