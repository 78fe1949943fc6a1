"""`vxland demo`: the two-node walk-through, built and checked in its own namespaces."""
