"""Layer 8, the verbs on a pin set: load, unload, status, action, confirm, clean."""
