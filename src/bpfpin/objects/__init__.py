"""What lives in the kernel and is held by a descriptor: maps, programs, links, BTF."""
