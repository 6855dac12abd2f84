"""Layers composed with residuals."""
