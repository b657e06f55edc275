"""Loading a set: request, live state, plan, publish."""
