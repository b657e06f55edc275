"""Loading a whole object: its maps and programs, in the order that the kernel needs."""
