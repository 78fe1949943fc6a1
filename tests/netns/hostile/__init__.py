"""Bounds on the damage that a hostile pod, peer, store or local user can do to others."""
