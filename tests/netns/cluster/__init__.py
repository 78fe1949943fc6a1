"""Whole nodes of a flannel cluster over a real etcd: nodes that run vxland, and one set up as by flanneld."""
