"""The programs of the fast path on one packet at a time, beside the daemon's own rules."""
