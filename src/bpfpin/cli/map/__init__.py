"""`bpfpin map`: one verb a file."""
