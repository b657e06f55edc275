"""What the instructions of a program do to a map: the abstract interpreter."""
