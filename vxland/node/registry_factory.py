"""The registry that the settings name: the only module of a node that knows the kinds of registries."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

from vxland.config import Settings
from vxland.reconcile import subnet_env
from vxland.registry.lease_cache import LeaseCache
from vxland.registry.protocol import Registry
from vxland.registry.static import StaticRegistry


def load_modules(settings: Settings) -> None:
    """Import the libraries of `registry.kind` now: on an event loop, that would hold it for 50 ms."""
    if settings.registry.kind != "static":
        import_module(f"vxland.registry.{settings.registry.kind}.registry")


def make_registry(settings: Settings, subnet_file: Path, *, cached: bool = True) -> Registry:
    """Return the registry of `registry.kind`, behind a lease cache where the settings name a file for one.

    `subnet_file` names the subnets that the node had before. Without `cached`, there is no cache. The libraries of a
    kind are imported for that kind alone.
    """
    registry: Registry
    match settings.registry.kind:
        case "static":
            return StaticRegistry(settings)
        case "etcd":
            from vxland.registry.etcd.registry import EtcdRegistry  # noqa: PLC0415  (aiohttp: 12 MB)

            registry, assigns_subnets = EtcdRegistry(settings.etcd, partial(subnet_env.read, subnet_file)), True
        case "kube":
            from vxland.registry.kube.registry import KubeRegistry  # noqa: PLC0415  (aiohttp: 12 MB)

            registry, assigns_subnets = KubeRegistry(settings.kube), False
    path = settings.cache_file if cached else None
    return registry if path is None else LeaseCache(registry, path, pools=assigns_subnets)
