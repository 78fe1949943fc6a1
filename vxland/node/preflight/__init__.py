"""Rules about the machine of a node: `vxland check --here` applies all, `vxland run` those without their own events."""
