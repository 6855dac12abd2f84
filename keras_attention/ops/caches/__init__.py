"""Keys and values of past tokens: one file per kind of cache."""
