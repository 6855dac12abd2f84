"""What an artefact may do, read without loading it: one file a format."""
