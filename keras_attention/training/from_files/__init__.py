"""Training from files of examples: reading, running and reporting."""
