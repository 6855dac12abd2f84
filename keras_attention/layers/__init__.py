"""Maths with weights: one public class a file."""
