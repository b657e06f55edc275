"""Whether a change would cut the user's own way to this host, tried on test packets."""
