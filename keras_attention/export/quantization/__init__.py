"""Artifacts with fewer bits."""
