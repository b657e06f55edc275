"""Hooks, one file each; attaching returns a Link that detaches when it is closed unpinned."""
