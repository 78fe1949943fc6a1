"""What registries do: one suite for all of them, and what only one of them does."""
