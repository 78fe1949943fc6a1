"""The syscalls of the data path, and netlink."""
