"""The MTU of an overlay device: it follows the underlay's, unless the settings name one."""

from __future__ import annotations

import structlog

from vxland.config import Settings
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Underlay

log = structlog.get_logger()


class OverlayMtu:
    """`value` is the MTU in bytes of the device of `settings` over `underlay`; ConfigError if it cannot be carried."""

    def __init__(self, settings: Settings, underlay: Underlay) -> None:
        self._settings = settings
        self.value = settings.overlay_mtu(underlay.mtu, underlay.address.version)

    def follow(self, underlay: Underlay) -> bool:
        """Follow an underlay whose MTU changed. Return whether the device's MTU changes too.

        An underlay that is too narrow now is logged, and the device keeps its MTU. Running pods keep theirs anyway.
        """
        before, problem = self.value, ""
        try:
            self.value = self._settings.overlay_mtu(underlay.mtu, underlay.address.version)
        except ConfigError as exc:
            problem = exc.remedy
        log.warning(
            "underlay_mtu_changed",
            interface=underlay.interface,
            device=self._settings.device,
            underlay_mtu=underlay.mtu,
            mtu=self.value,
            problem=problem,
        )
        return self.value != before
