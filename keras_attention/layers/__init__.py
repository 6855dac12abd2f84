"""Layers: one public class per file."""
