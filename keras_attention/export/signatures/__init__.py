"""What a model can be asked: its signatures, one file a kind."""
