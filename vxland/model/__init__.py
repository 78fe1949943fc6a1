"""Values that rooms pass to one another (leases, kernel state, actions, errors), and the helpers that they share."""
