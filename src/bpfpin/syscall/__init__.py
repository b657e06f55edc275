"""System calls, one function a command: integers and bytes in, integers and bytes out."""
