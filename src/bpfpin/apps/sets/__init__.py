"""One pin set as it is found: where it is, what runs, who uses it, what is wrong."""
