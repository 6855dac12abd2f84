"""Artifacts compared with what they must say, and with each other."""
