"""Scans of artifacts before they are loaded, one file per format."""
