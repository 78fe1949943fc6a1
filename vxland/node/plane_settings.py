"""Settings of one tunnel for each IP family of a flannel network, as flanneld creates a device for each."""

from __future__ import annotations

from vxland.config import Settings
from vxland.model.errors import ConfigError
from vxland.model.mtu import MIN_MTU_V6, OVERHEAD
from vxland.registry.net_conf import NetConf

_DEVICE = {4: "flannel", 6: "flannel-v6"}
_MAX_NAME = 15  # IFNAMSIZ of linux/if.h less the closing NUL


def planes_of(settings: Settings, conf: NetConf) -> dict[int, Settings]:
    """Return the settings of each enabled family's tunnel, by IP version. ConfigError if a tunnel is impossible.

    Network, VNI, port, device and, unless `settings` have one, the MTU come from the cluster; `underlay.address` and
    `public_address` become those of the family.
    """
    return {network.version: _plane(settings, conf, network.version) for network in conf.networks}


def _plane(settings: Settings, conf: NetConf, version: int) -> Settings:
    overlay, underlay = settings.overlay, settings.underlay
    mtu = overlay.mtu
    if version == 6 and mtu is not None and mtu < MIN_MTU_V6:
        raise ConfigError("overlay.mtu", mtu, f"use {MIN_MTU_V6} or more: IPv6 needs it, RFC 8200 section 5")
    if mtu is None and conf.mtu is not None:
        mtu = conf.mtu - OVERHEAD[version]
    v4 = version == 4
    return settings.model_copy(
        update={
            "overlay": overlay.model_copy(
                update={
                    "network": tuple(network for network in conf.networks if network.version == version),
                    "vni": conf.vni,
                    "port": conf.port,
                    "mtu": mtu,
                    "device": _device(version, conf.vni),
                    "mac": overlay.mac if v4 else None,  # two devices of one MAC would be one peer to others
                }
            ),
            "underlay": underlay.model_copy(
                update={
                    "address": underlay.address if v4 else underlay.address_v6,
                    "public_address": underlay.public_address if v4 else underlay.public_address_v6,
                    "address_v6": None,
                    "public_address_v6": None,
                }
            ),
        }
    )


def _device(version: int, vni: int) -> str:
    name = f"{_DEVICE[version]}.{vni}"
    if len(name) > _MAX_NAME:
        most = 10 ** (_MAX_NAME - len(_DEVICE[version]) - 1) - 1
        remedy = f"use {most} or less: the device would be {name}, and names have at most {_MAX_NAME} characters"
        raise ConfigError("net-conf.json: Backend.VNI", vni, remedy)
    return name
