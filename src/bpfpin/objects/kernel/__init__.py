"""What the kernel reports: ids, descriptors, BTF and the attach targets in it."""
