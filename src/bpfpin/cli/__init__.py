"""Layer 7, the command: reads argv, prints and exits; one command a file."""

import gc

# What imports make stays until the end, and yet the collector of reference cycles looks through it
# again and again: a tenth of the CPU time of a short command. Long ones still collect.
gc.set_threshold(100_000)
