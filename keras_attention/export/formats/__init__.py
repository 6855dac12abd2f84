"""Writers, one file or folder per format. `errors.py` has the checks they share."""
