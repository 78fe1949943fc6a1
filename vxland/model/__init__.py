"""Values that rooms hand to one another: leases, kernel state, actions, errors."""
