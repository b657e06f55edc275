"""Maps that carry events: ring buffers and perf event arrays."""
