"""Attention that computes only what a mask leaves visible."""
