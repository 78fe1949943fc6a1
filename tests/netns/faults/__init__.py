"""Real faults of a node: measures the loss, and the time until recovery."""
