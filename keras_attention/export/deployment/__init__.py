"""The version folders that a model server reads."""
