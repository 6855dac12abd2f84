"""The development server: TF Serving's protocols. Not for production."""
