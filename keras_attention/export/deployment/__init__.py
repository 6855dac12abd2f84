"""Versions in the folder of a server."""
