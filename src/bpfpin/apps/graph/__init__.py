"""Who shares what on this host, ours or not: asked of the kernel, kept as plain values."""
