"""`vxland demo` and `vxland bench`: nodes in namespaces of their own. An extra; a node loads nothing of it."""
