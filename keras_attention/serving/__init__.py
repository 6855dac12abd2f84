"""The development server, with TF Serving's protocols. It is not for production."""
