"""Choosing the next token, and the loops that do it; below models, above ops."""
