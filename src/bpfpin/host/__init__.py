"""Layer 6, what is on this host: programs, maps, links, pins and processes, asked of the kernel."""
