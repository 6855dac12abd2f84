"""Tokenizers made of TensorFlow operations, so that exported models take text.

This package imports nothing else of `keras_attention`, and TensorFlow only when a
module of it is imported.
"""
