"""Maths without weights."""
