"""`vxland demo`: the two-node walk-through, built and checked in namespaces of its own."""
