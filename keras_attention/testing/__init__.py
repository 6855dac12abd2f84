"""Assertions for tests of users' own models."""
