"""Plans of the changes that the kernel needs, and the loops that apply them."""
