"""The signatures of exported models, one file per kind of signature."""
