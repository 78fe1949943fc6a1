"""Masquerade and forward rules, source filters, and the programs that install them."""
