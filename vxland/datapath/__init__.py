"""Decisions about frames: pure, synchronous, no clock."""
