"""`vxlandctl`: a client of the daemon's control socket. It starts at once, so it imports next to nothing."""
