"""`bpfpin check`: read and verify objects, attach and pin nothing."""
