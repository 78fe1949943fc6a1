"""The registry kept in Kubernetes: flannel's annotations on Node objects, over the REST API."""

from vxland.registry.kube.registry import KubeRegistry

__all__ = ["KubeRegistry"]
