"""Bytes to fields and back, one module per header, no decisions."""
