"""The registry kept in Kubernetes: flannel's annotations on Node objects, over the REST API."""

from vxland.control.kube.registry import KubeRegistry

__all__ = ["KubeRegistry"]
