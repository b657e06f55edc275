"""The kernel's door: integers and bytes in, integers and bytes out."""
