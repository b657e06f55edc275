"""Layer 6, the state of this host: programs, maps, links, pins and processes, from the kernel."""
