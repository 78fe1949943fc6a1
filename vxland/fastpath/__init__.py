"""Carries in the kernel what the daemon has judged: tc programs, their maps, and the decision what they may take."""
