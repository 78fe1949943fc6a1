"""One running node: its stages, planes, confinement and state."""
