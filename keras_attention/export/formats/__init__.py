"""Writers: one file or folder a format."""
