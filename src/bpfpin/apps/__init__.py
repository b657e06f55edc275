"""Layer 9, the applications behind other commands: they return values and never print."""
