"""Chooses the next token, and runs the loops of generation; models import it."""
