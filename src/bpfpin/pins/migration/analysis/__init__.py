"""What programs do to the values of a map, followed through their instructions."""
