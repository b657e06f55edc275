"""How one load goes: from what is asked for to what is told."""
