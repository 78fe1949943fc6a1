"""What goes wrong on nodes, done to one for real: what is lost, and how long until all is well again."""
