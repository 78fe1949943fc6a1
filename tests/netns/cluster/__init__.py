"""Whole nodes of a flannel cluster over a real etcd: vxland's, and one as flanneld leaves it."""
