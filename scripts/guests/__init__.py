"""Boot Linux kernels of Debian under qemu and run the tests of this checkout in them.

A guest needs no image of its own: its root is the root file system of this machine, read-only
under an overlay in memory, so it sees the same Python, virtual environment and checkout.
"""
