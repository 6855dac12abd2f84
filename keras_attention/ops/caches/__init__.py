"""Keys and values of past tokens: one file a kind of cache."""
