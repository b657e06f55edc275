"""Objects that nobody would compile, and what must hold of every one of them."""
