"""Programs: loading them and reading what the kernel has made of them."""
