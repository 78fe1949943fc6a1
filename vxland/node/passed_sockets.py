"""The underlay's sockets that the program which started vxland has passed, with `underlay.sockets: inherited`."""

from __future__ import annotations

from collections.abc import Sequence

from vxland.config import Settings
from vxland.forwarding.io import underlay_sockets
from vxland.forwarding.io.fdstore import Inherited, Role, name_of
from vxland.forwarding.io.underlay_sockets import UnderlayPort
from vxland.forwarding.pump import COMPILED
from vxland.model.errors import ConfigError
from vxland.model.kernel_state import Underlay

Planes = Sequence[tuple[Settings, Underlay]]


class PassedSockets:
    """The sockets among the descriptors that `inherited` has. They stay open, for each start of the node's planes."""

    def __init__(self, settings: Settings, inherited: Inherited) -> None:
        self._wanted = settings.underlay.sockets == "inherited"
        self._missed = inherited.missed
        self._passed = inherited.take_foreign() if self._wanted else []

    def lend(self, planes: Planes, inherited: Inherited) -> Planes:
        """Let `inherited` hand them out to these planes; return the planes with as many workers and source ports.

        InvalidConfigError names each socket that cannot be used, ConfigError a number of workers that does not fit.
        """
        if not self._wanted:
            return planes
        ports = [UnderlayPort(underlay.address, settings.overlay.port) for settings, underlay in planes]
        found = underlay_sockets.sort_sockets(self._passed, ports, self._missed)
        lent: dict[str, int] = {}
        fitted = []
        for (settings, underlay), sockets in zip(planes, found, strict=True):
            roles: dict[Role, list[int]] = {"receive": sockets.receivers, "send": sockets.senders}
            for role, fds in roles.items():
                lent |= {name_of(role, settings.device, number): fd for number, fd in enumerate(fds)}
            _check_workers(settings, len(sockets.receivers))
            update = {
                "datapath": settings.datapath.model_copy(update={"workers": len(sockets.receivers)}),
                "underlay": settings.underlay.model_copy(update={"source_ports": len(sockets.senders)}),
            }
            fitted.append((settings.model_copy(update=update), underlay))
        inherited.lend(lent)
        return fitted


def _check_workers(settings: Settings, receivers: int) -> None:
    """Raise ConfigError unless each receiving socket has a worker, and each worker a socket."""
    key, wanted, port = "datapath.workers", settings.datapath.workers, settings.overlay.port
    if not COMPILED and receivers > 1:
        remedy = f"pass one socket on port {port}, not {receivers}: the interpreted gear has one worker"
        raise ConfigError(key, wanted or "auto", remedy)
    if COMPILED and wanted not in {None, receivers}:
        remedy = f"write auto or {receivers}: as many inherited sockets receive on port {port}, one for each worker"
        raise ConfigError(key, wanted, remedy)
