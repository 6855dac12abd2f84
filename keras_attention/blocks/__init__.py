"""Blocks: attention and feed-forward layers with residual connections."""
