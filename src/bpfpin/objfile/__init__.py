"""Layer 2: the bytes of an object file in, specs out; never enters the kernel."""
