"""A store that serves vxland's clients, and attacks them on request."""
