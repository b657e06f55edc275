"""`bpfpin graph`, and the graph as a tree, as words for other tools and as a picture."""
