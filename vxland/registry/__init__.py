"""Sources of leases: a file, etcd or the Kubernetes API, with a cache in front of them."""
