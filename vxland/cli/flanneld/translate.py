"""Translation of flanneld's flags to settings of vxland. Of the machine it reads only the file of --vxland-config.

So a command line means the same on every machine. Like flannel (main.go), vxland ignores flags that the chosen registry
does not need, but with a note for the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vxland.cli.flanneld.flag_table import FLAGS
from vxland.cli.flanneld.go_flags import Given, Value, parse_flags
from vxland.config import Settings, read, settings_of
from vxland.model.errors import ConfigError, FlagError, InvalidConfigError

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_FILES = ("etcd-cafile", "etcd-certfile", "etcd-keyfile")
OWN_SECTIONS: Final = ("security", "probe", "datapath", "control", "overlay")
"""Sections that no flag of flanneld sets."""

OWN_KUBE: Final = ("pod_names",)
"""Settings of the section `kube` that no flag sets; it is read with --kube-subnet-mgr."""


@dataclass(frozen=True, slots=True)
class Command:
    """A translated command line of flanneld."""

    settings: Settings
    """Settings with the registry etcd or kube, which defines the network; the defaults with `help` or `version`."""

    subnet_file: Path
    log_level: str
    """`info` or `debug`."""

    path: Path | None = None
    """The file with a part of the settings; parse() reads it again."""

    notes: tuple[str, ...] = ()
    """Flags without effect, or with another effect than in flanneld, for the log."""

    help: bool = False
    version: bool = False


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Command:
    """Return the Command of flanneld's arguments and environment.

    FlagError for the first flag that flanneld would not know or read; else InvalidConfigError with every value that
    vxland cannot use, by the flag or variable that gave it.
    """
    given = parse_flags(argv, environ, FLAGS)
    values: dict[str, Any] = {name: given.values.get(name, _default(name)) for name in _BY_NAME}
    subnet_file, log_level = Path(values["subnet-file"]), "debug" if values["v"] > 0 else "info"
    version = given.sources.get("version") == "--version" and values["version"]  # not from the environment
    if given.help or version:
        return Command(Settings(), subnet_file, log_level, help=given.help, version=not given.help)
    if not values["subnet-file"]:
        raise FlagError(f"{given.sources['subnet-file']}: '': name a file, such as {_default('subnet-file')}")
    path = Path(values["vxland-config"]) if values["vxland-config"] else None
    sections, special, notes = _sections(values, given)
    try:
        own = {} if path is None else _own_sections(path)
        for name in ("overlay", "kube"):
            if isinstance(part := own.get(name), dict):
                own[name] = sections.get(name, {}) | part
        settings = settings_of(sections | own)
    except InvalidConfigError as exc:
        raise InvalidConfigError([_in_flags(problem, given, special) for problem in exc.problems]) from exc
    return Command(settings, subnet_file, log_level, path, (*notes, *_notes(given, environ)))


def _default(name: str) -> Value:
    flag = _BY_NAME[name]
    match flag.kind:
        case "switch":
            return flag.default == "true"
        case "number":
            return int(flag.default)
        case "list":
            return ()
        case "text":
            return flag.default


def _sections(values: dict[str, Any], given: Given) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """Return sections as in a file, the flags of settings that the table does not name, and notes."""
    kind = "kube" if values["kube-subnet-mgr"] else "etcd"
    notes: list[str] = []
    if kind == "etcd":
        _set_endpoints(values, given, notes)
    sections: dict[str, dict[str, Any]] = {"registry": {"kind": kind}, "underlay": {}, "firewall": {}, kind: {}}
    for flag in FLAGS:
        section, _, key = flag.setting.partition(".")
        value = values[flag.name]
        if section in sections and value not in ("", ()):
            sections[section][key] = list(value) if isinstance(value, tuple) else value
    sections["firewall"]["fully_random"] = not values["ip-masq-fully-random-disable"]
    special = {"firewall.fully_random": "ip-masq-fully-random-disable", "metrics.listen": "healthz-ip"}
    by_interface = any(values[name] for name in ("iface", "iface-regex", "iface-can-reach"))
    for name, suffix in (("public-ip", ""), ("public-ipv6", "_v6")):
        key = f"public_address{suffix}" if by_interface else f"address{suffix}"
        special[f"underlay.{key}"] = name
        if values[name]:
            sections["underlay"][key] = values[name]
    sections["metrics"] = {"listen": _listen(values, given)}
    sections["overlay"] = {"subnet_env_mtu": "flannel"}  # the same MTU as existing pods, and other nodes'
    sections["probe"] = {"interval_s": 0}  # flanneld pings no peers: a capture on flannel.1 shows pods' packets alone
    return sections, special, notes


def _own_sections(path: Path) -> dict[str, Any]:
    """Return the sections of the file of --vxland-config. InvalidConfigError if it sets what flags set."""
    sections = read(path)
    kube = sections.get("kube")
    allowed = OWN_SECTIONS if not isinstance(kube, dict) or set(kube) - set(OWN_KUBE) else (*OWN_SECTIONS, "kube")
    other = [name for name in sections if name not in allowed]
    may = ", ".join((*OWN_SECTIONS, *(f"kube.{key}" for key in OWN_KUBE)))
    remedy = f"leave it out: this file may have {may}, and flags set the rest"
    if other:
        raise InvalidConfigError([ConfigError(name, str(path), remedy) for name in other])
    return sections


def _set_endpoints(values: dict[str, Any], given: Given, notes: list[str]) -> None:
    """Make a list of URLs of --etcd-endpoints, and leave out certificates if no URL uses them."""
    scheme = "https" if values["etcd-certfile"] and values["etcd-keyfile"] else "http"  # as etcd's own client does
    urls = [url.strip() for url in values["etcd-endpoints"].split(",")]
    values["etcd-endpoints"] = tuple(url if "://" in url else f"{scheme}://{url}" for url in urls if url)
    files = [name for name in _FILES if values[name]]
    if files and all(url.lower().startswith("http://") for url in values["etcd-endpoints"]):
        for name in files:
            values[name] = ""
            notes.append(f"{given.sources[name]} has no effect: every endpoint of etcd is http")
    elif files == ["etcd-cafile"]:
        notes.append(
            f"{given.sources['etcd-cafile']} is obeyed, though flanneld ignores it without a client certificate"
        )


def _listen(values: dict[str, Any], given: Given) -> str:
    if values["healthz-port"] == 0:
        return ""
    if not 0 < values["healthz-port"] <= 65535:
        raise FlagError(f"{given.sources['healthz-port']}: {values['healthz-port']}: write a port, or 0 for none")
    host = values["healthz-ip"].strip("[]") or _BY_NAME["healthz-ip"].default
    return f"[{host}]:{values['healthz-port']}" if ":" in host else f"{host}:{values['healthz-port']}"


def _notes(given: Given, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a note for each flag or variable that is not read."""
    unread = "etcd" if given.values.get("kube-subnet-mgr") else "kube"
    for name, source in given.sources.items():
        flag = _BY_NAME[name]
        if flag.setting.startswith(f"{unread}."):
            yield f"{source} has no effect {'with' if unread == 'etcd' else 'without'} --kube-subnet-mgr"
        elif "without effect" in flag.meaning:
            yield f"{source} has no effect: {flag.meaning.partition(': ')[2]}"
    if given.stray:
        yield f"nothing is read from {given.stray[0]!r} on: flags end there; a switch is turned off with --FLAG=false"
    known = {flag.variable for flag in FLAGS}
    for name in sorted(environ):
        if name.startswith("FLANNELD_") and name not in known:
            yield f"{name} has no effect: flanneld has no such flag"


def _in_flags(problem: ConfigError, given: Given, special: dict[str, str]) -> ConfigError:
    """Return the same problem with the flags of this command line in place of settings."""
    names = special | {flag.setting: flag.name for flag in FLAGS if flag.setting}
    if problem.key == str(Path(str(given.values.get("vxland-config", "")))):  # of the file as a whole
        return ConfigError(given.sources["vxland-config"], problem.value, problem.remedy)

    def flag_of(match: re.Match[str]) -> str:
        name = names.get(match[0])
        return match[0] if name is None else given.sources.get(name, f"--{name}")

    key = re.sub(r"\[\d+\]$", "", problem.key)
    setting = re.compile(r"\b[a-z]+\.[a-z_0-9]+\b")
    return ConfigError(setting.sub(flag_of, key), problem.value, setting.sub(flag_of, problem.remedy))
