"""Confinement of the daemon, `security.user` and `security.seccomp`, before any thread or device exists."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from platform import machine
from typing import Final

import structlog

from vxland.config import Settings
from vxland.fastpath import programs
from vxland.kernel import memfd, privilege, seccomp
from vxland.kernel.scheduling import wake_early
from vxland.model.atomic_write import make_directories
from vxland.model.errors import ConfigError

_TUN: Final = Path("/dev/net/tun")
_USER: Final = "security.user"
_SECCOMP: Final = "security.seccomp"

log = structlog.get_logger()


def confine(settings: Settings, path: Path | None, subnet_file: Path) -> None:
    """Become the user of the settings and filter system calls, for good. ConfigError if that is impossible.

    `path` is the file that a reload reads. The folders that vxland writes to are created, and given to the user.
    """
    wake_early()  # a filter of system calls may refuse it later
    library = _library(settings.security.seccomp)
    uses_bpf = settings.datapath.fast_path == "auto"
    if uses_bpf:
        programs.reserve()
    if (name := settings.security.user) is not None:
        _become(name, _written(settings, subnet_file), keep_bpf=uses_bpf)
        if path is not None and not os.access(path, os.R_OK):
            remedy = f"chgrp {name} {path} && chmod 640 {path}"
            log.warning("reload_impossible", path=str(path), user=name, remedy=remedy)
    if library is not None:
        try:
            seccomp.install(library, allow_bpf=uses_bpf)
        except OSError as exc:
            if settings.security.seccomp == "on":
                raise ConfigError(_SECCOMP, "on", f"write off: the kernel refuses the filter: {exc}") from exc
            log.warning("seccomp_off", error=str(exc))
            library = None
    elif settings.security.seccomp != "off" and (now := privilege.held()).seccomp and now.no_new_privs:
        memfd.refuse()  # the filter of a unit or a container leaves that to us
    if name is not None or settings.security.seccomp == "on":  # otherwise nobody asked for it, and status shows it
        now = privilege.held()
        log.info("confined", user=now.user, capabilities=len(now.capabilities), seccomp=now.seccomp)


def _written(settings: Settings, subnet_file: Path) -> dict[Path, str]:
    """Return the files that the daemon creates, and the setting that names each."""
    written = {settings.control.socket: "control.socket", subnet_file: "--subnet-file"}
    if settings.cache_file is not None:
        written[settings.cache_file] = "registry.memory"
    return {path.absolute(): key for path, key in written.items()}


def _library(wanted: str) -> seccomp.Library | None:
    if wanted == "off":
        return None
    found = seccomp.library()
    if found is None and wanted == "on":
        remedy = "install pyseccomp (pip install 'vxland[hardening]') and libseccomp (apt-get install libseccomp2)"
        if machine() not in seccomp.MACHINES:
            remedy = f"write off: there is a filter for {', '.join(seccomp.MACHINES)}, and none for {machine()}"
        raise ConfigError(_SECCOMP, wanted, remedy)
    return found


def check_confinement(settings: Settings) -> None:
    """Raise ConfigError if the machine, or the user who starts vxland, rules out `security.user` or `seccomp`."""
    _library(settings.security.seccomp)
    if (name := settings.security.user) is not None:
        _user(name)


def _user(name: str) -> pwd.struct_passwd:
    """Return the user to become."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        how = f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
        raise ConfigError(_USER, name, f"create this user ({how}), or name another") from None
    if user.pw_uid == 0:
        raise ConfigError(_USER, name, "name a user that is not root, or leave it out")
    if os.getuid() not in {0, user.pw_uid}:
        me = privilege.held().user
        raise ConfigError(
            _USER, name, f"start vxland as root, not as {me}, or leave it out: {me} cannot become another"
        )
    return user


def _become(name: str, written: Mapping[Path, str], *, keep_bpf: bool) -> None:
    """Become the user, with CAP_NET_ADMIN alone or CAP_BPF too; `written` maps its files to the settings' names."""
    user = _user(name)
    if os.getuid() == 0:
        for folder in {path.parent for path in written}:
            _give(folder, user, {path.name for path in written})
    try:
        privilege.become(user, keep_bpf=keep_bpf)
    except PermissionError as exc:
        needed = "NET_ADMIN, SETUID, SETGID and SETPCAP, with CHOWN and DAC_OVERRIDE for its folders"
        raise ConfigError(_USER, name, f"leave it out, or grant {needed}: {exc.strerror}") from exc
    _check_access(name, written)


def _give(folder: Path, user: pwd.struct_passwd, names: set[str]) -> None:
    """Create a folder and give it to the user, or one of root's that holds only files that vxland writes.

    Any other folder stays as it is: _check_access() finds out whether the user can work with it.
    """
    try:
        new = not folder.exists()
        make_directories(folder)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        found = os.fstat(handle)
        scratch = tuple(f".{name}." for name in names)
        ours = all(entry in names or entry.startswith(scratch) for entry in os.listdir(handle))  # noqa: PTH208  (of it)
        shared = found.st_mode & stat.S_IWOTH or len(folder.parts) <= 2  # /tmp, /run: shared by programs
        if new or (found.st_uid == 0 and ours and not shared):
            os.fchown(handle, user.pw_uid, user.pw_gid)
    except OSError as exc:
        remedy = f"grant the capability CHOWN, or give {folder} to it before: {exc.strerror}"
        raise ConfigError(_USER, user.pw_name, remedy) from exc
    finally:
        os.close(handle)


def _check_access(name: str, written: Mapping[Path, str]) -> None:
    """Raise ConfigError for the first file that this process, which is the user now, needs and cannot access."""
    for path, key in written.items():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            owned = f"chown {name} {path.parent}"
            remedy = f"{owned}, or name a file in a folder of its own as {key}: {path} cannot be written by it"
            raise ConfigError(_USER, name, remedy)
    for module in (__file__, structlog.__file__, os.__file__):
        if not os.access(module, os.R_OK):
            remedy = f"install vxland where it may read, not under /root: {module} is closed to it"
            raise ConfigError(_USER, name, remedy)
    try:
        os.close(os.open(_TUN, os.O_RDWR))
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # opening the device reports that, with its remedy
            remedy = f"let it open {_TUN}, for instance with chmod 666 {_TUN} or a udev rule: {exc.strerror}"
            raise ConfigError(_USER, name, remedy) from exc
