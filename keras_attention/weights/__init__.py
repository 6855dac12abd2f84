"""Other libraries' checkpoints, read into our variables and written back."""
