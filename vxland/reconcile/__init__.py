"""Plans of what must change in the kernel, and the loops that apply them."""
