"""Attention in chunks, which never holds all scores."""
