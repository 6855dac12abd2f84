"""The folder of an artifact: its description, its manifest, and its atomic writing."""
