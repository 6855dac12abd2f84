"""Artefacts with fewer bits."""
