"""The cases of a verification: inputs, and the outputs that are expected."""
