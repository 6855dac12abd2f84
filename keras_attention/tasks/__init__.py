"""Models with text or images in front and answers behind."""
