"""Loading a set: request, what is there, plan, publish."""
