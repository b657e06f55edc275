"""Layer 7, the command: reads argv, prints and exits; one command a file."""
