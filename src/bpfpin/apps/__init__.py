"""Layer 6, what users run: each app returns values and never prints."""
