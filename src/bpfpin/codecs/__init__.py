"""Bytes of keys and values as Python values, and back; pure, below the specs and the maps."""
