"""flannel's registry in Kubernetes: annotations of Node objects, through the Kubernetes API."""
