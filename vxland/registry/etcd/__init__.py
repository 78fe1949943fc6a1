"""flannel's etcd v3 registry. Imported only where the settings ask for it: aiohttp costs memory."""

from vxland.registry.etcd.registry import EtcdRegistry

__all__ = ["EtcdRegistry"]
