"""Reads other libraries' checkpoints into our variables, and writes them."""
