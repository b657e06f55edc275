"""What objects are, and whether this kernel would take them; nothing is attached or pinned."""
