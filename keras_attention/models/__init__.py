"""Blocks composed into models."""
