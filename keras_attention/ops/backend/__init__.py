"""Code that differs between TensorFlow, JAX and torch."""
