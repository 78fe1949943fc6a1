"""Eyes on the daemon: they look, they never steer the data path."""
