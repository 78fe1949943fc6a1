"""The command `vxland`."""
