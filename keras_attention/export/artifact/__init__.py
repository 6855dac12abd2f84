"""The folder of an artefact: its manifest, and how it is written in one step."""
