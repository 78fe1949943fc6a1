"""`vxland bench`: vxland compared with the kernel's vxlan device and others, in its own namespaces, by ratios."""
