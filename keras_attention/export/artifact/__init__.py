"""The folder of an artifact: its manifest, and how it is written in one step."""
