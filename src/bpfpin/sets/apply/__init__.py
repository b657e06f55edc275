"""The state that files describe: read it, compare it with what is loaded, and make it so."""
