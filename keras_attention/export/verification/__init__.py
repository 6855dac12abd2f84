"""Compares artifacts with their models, and with each other."""
