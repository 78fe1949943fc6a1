"""Workers and pumps: one burst of each direction, from read to send."""
