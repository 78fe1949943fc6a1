"""`vxlandctl`: a client of the API socket that starts instantly and imports nothing of the daemon."""
