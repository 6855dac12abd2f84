"""Seeing what a model attends to."""
