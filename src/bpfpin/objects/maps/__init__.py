"""Maps: creating, reading and writing them, with typed keys and values."""
