"""What an artifact may do, read without loading it: one file a format."""
