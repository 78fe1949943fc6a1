"""Where leases come from, and how this node follows them."""
