"""Typed values from those that YAML read. Each refusal is a ValueError whose text is the remedy."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from vxland.config.goregex import translate
from vxland.config.section import ONE_IS_LIST, listed
from vxland.model.lease import Address, Mac, Subnet, is_a_nodes
from vxland.model.mtu import MIN_MTU

MAX_WORKERS = 16
MAX_MTU = 65535 - 50  # an outer IPv4 packet counts its length in 16 bits, and VXLAN takes 50 of it
MAX_SOURCES = 16  # of one peer; the data path may try each for a frame
MAX_SOURCE_ENTRIES = 4096

_SHORTEST_SOURCE = {32: 8, 128: 32}  # prefix lengths, by the bits of an address: no provider's NAT has more
_IFNAME_LEN = 15  # IFNAMSIZ of linux/if.h less the closing NUL
_IFNAME_BAD = re.compile(r"[/:%\s\0]")  # dev_valid_name() of net/core/dev.c; % would ask the kernel for a number
_SUN_PATH_LEN = 107  # unix(7): sun_path less the closing NUL
_BASE60_MAC = range(10 * 60**5, 100 * 60**5)  # six groups of two digits, as YAML 1.1 counts them


@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP address to serve on."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def _refuse(remedy: str) -> NoReturn:
    raise ValueError(remedy)


def _text(raw: object, example: str) -> str:
    if raw is None:
        _refuse("give it a value, or remove the key")
    if type(raw) is int:
        # YAML 1.1 takes digits with colons between them for a number in base 60.
        _refuse(f'put it in quotes, as in "{example}": YAML took it for a number')
    if not isinstance(raw, str):
        _refuse(f"write text, such as {example}")
    return raw


def _mac(raw: object) -> Mac:
    example = "ce:5f:f6:73:cf:b9"
    if type(raw) is int and raw in _BASE60_MAC:
        example = ":".join(f"{raw // 60**group % (60 if group < 5 else 100):02}" for group in range(5, -1, -1))
    text = _text(raw, example)
    try:
        mac = Mac.parse(text)
    except ValueError:
        _refuse(f"write six bytes in hex with colons between them, such as {example}")
    if mac.value == 0:
        _refuse("give the MAC of the node's VXLAN device: all zero is no station's address")
    if not mac.is_unicast:
        _refuse("use a unicast MAC, with an even first byte: an odd one makes it multicast")
    return mac


def _host(raw: object) -> Address:
    text = _text(raw, "192.168.111.129")
    try:
        address = ip_address(text)
    except ValueError:
        _refuse("write an IPv4 or IPv6 address, such as 192.168.111.129")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        _refuse(f"leave out %{address.scope_id}: underlay.interface names the interface")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        _refuse(f"write {address.ipv4_mapped}: it is an IPv4-mapped address")
    if not is_a_nodes(address):
        _refuse("give the unicast address of one node's underlay interface")
    return address


def _subnet(raw: object) -> Subnet:
    text = _text(raw, "10.244.1.0/24")
    if not re.search(r"/\d+$", text):
        _refuse("write it with its prefix length, such as 10.244.1.0/24")
    try:
        subnet = ip_network(text, strict=False)
    except ValueError:
        _refuse("write an IPv4 or IPv6 subnet, such as 10.244.1.0/24")
    if subnet.is_multicast:
        _refuse("use unicast addresses, such as 10.244.1.0/24")
    address = ip_address(text.partition("/")[0])
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        _refuse(f"leave out %{address.scope_id}: subnets have no scope")
    if address != subnet.network_address:
        _refuse(f"write {subnet}: {address} has bits set after the prefix")
    return subnet


def _source(raw: object) -> Subnet:
    text = _text(raw, "203.0.113.7")
    if "/" not in text:
        return ip_network(_host(text))
    source, shortest = _subnet(text), _SHORTEST_SOURCE[32 if "." in text else 128]
    if source.prefixlen < shortest:
        _refuse(f"use /{shortest} or longer: any host with such an address may send as this node")
    return source


def _sources_by_vtep(raw: object) -> tuple[tuple[Address, tuple[Subnet, ...]], ...]:
    if not isinstance(raw, dict):
        _refuse("write a mapping of VTEP addresses to lists of sources, such as {203.0.113.7: [10.0.0.9]}")
    if len(raw) > MAX_SOURCE_ENTRIES:
        _refuse(f"name at most {MAX_SOURCE_ENTRIES} VTEPs: give their nodes addresses of their own on the underlay")
    found: dict[Address, tuple[Subnet, ...]] = {}
    for key, value in raw.items():
        try:
            vtep, listed = _host(key), value if isinstance(value, list | tuple) else [value]
            if not 0 < len(listed) <= MAX_SOURCES:
                _refuse(f"list 1 to {MAX_SOURCES} sources, prefixes where there are more")
            found[vtep] = tuple(map(_source, listed))
            if any(source.version != vtep.version for source in found[vtep]):
                _refuse(f"use IPv{vtep.version} sources, as the VTEP's address is")
        except ValueError as exc:
            _refuse(f"{ascii(str(key))[1:-1][:40]}: {exc}")
    return tuple(found.items())


def _one_per_family(subnets: tuple[Subnet, ...]) -> tuple[Subnet, ...]:
    if len({subnet.version for subnet in subnets}) < len(subnets):
        _refuse("list at most one IPv4 and one IPv6 subnet")
    return subnets


def _workers(raw: object) -> int | None:
    """Return a number of threads; None for auto."""
    if raw == "auto":
        return None
    if type(raw) is not int or not 1 <= raw <= MAX_WORKERS:
        _refuse(f"write auto, or a whole number from 1 to {MAX_WORKERS}")
    return raw


def _number(least: int, most: int, other: str) -> PlainValidator:
    """Return a validator of whole numbers within a range; it returns None for the word `other`."""

    def read(raw: object) -> int | None:
        if raw == other:
            return None
        if type(raw) is not int or not least <= raw <= most:
            _refuse(f"write {other}, or a whole number from {least} to {most}")
        return raw

    return PlainValidator(read)


def _mtu(raw: object) -> int | None:
    if raw == "auto":
        return None
    if type(raw) is not int or not MIN_MTU <= raw <= MAX_MTU:
        _refuse(f"write auto, or a whole number from {MIN_MTU} to {MAX_MTU} without quotes")
    return raw


def _ifname(raw: object) -> str:
    name = _text(raw, "flannel.1")
    if not name or name in {".", ".."} or _IFNAME_BAD.search(name):
        _refuse("use a name without blanks, / : and %, such as flannel.1")
    if len(os.fsencode(name)) > _IFNAME_LEN:
        _refuse(f"use at most {_IFNAME_LEN} characters: Linux allows no more")
    return name


def _link(raw: object) -> str:
    """Return an interface's name, or an address in its usual spelling."""
    text = _text(raw, "ens33")
    try:
        ip_address(text)
    except ValueError:
        return _ifname(text)
    return str(_host(text))


def _links(raw: object) -> object:
    return [] if raw is None else listed(raw)


def _file(raw: object) -> Path:
    text = _text(str(raw) if isinstance(raw, Path) else raw, "/etc/vxland/etcd-ca.pem")
    if not text or "\0" in text:
        _refuse("name a file, such as /etc/vxland/etcd-ca.pem")
    return Path(text)


def _socket_path(raw: object) -> Path:
    text = _text(raw, "/run/vxland/control.sock")
    if not text.startswith("/") or "\0" in text:
        _refuse("write an absolute path, such as /run/vxland/control.sock")
    if len(os.fsencode(text)) > _SUN_PATH_LEN:
        _refuse(f"use a path of at most {_SUN_PATH_LEN} bytes: a UNIX socket's address holds no more")
    return Path(text)


def _memory_path(raw: object) -> Path | None:
    if raw is None or raw == "":
        return None
    text = _text(raw, "/var/lib/vxland/leases.json")
    if not text.startswith("/") or "\0" in text:
        _refuse("write an absolute path, such as /var/lib/vxland/leases.json; empty is off")
    return Path(text)


def _listen(raw: object) -> Listen | None:
    if raw is None or raw == "":
        return None
    text = _text(raw, "127.0.0.1:9472")
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address(bare)
    except ValueError:
        _refuse("write ADDRESS:PORT with a numeric address, such as 127.0.0.1:9472, or [::1]:9472; empty is off")
    if address.version == 6 and bare == host:
        _refuse(f"put the address in brackets, as in [{address}]:9472")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        _refuse(f"end it with a port from 1 to 65535, as in {host}:9472")
    return Listen(address, int(port))


def _regex(raw: object) -> str:
    text = _text(raw, "eth[0-9]+")
    try:
        re.compile(translate(text))
    except (ValueError, re.error) as exc:
        _refuse(f"write a regular expression as Go has them, such as eth[0-9]+: {exc}")
    return text


def is_url(text: str) -> bool:
    """Return whether it is the URL of a server: http or https in any case, as Go reads it, a host, and no blanks."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return sound and text.isprintable() and " " not in text


def normal_url(text: str) -> str:
    """Return a URL with its scheme in lower case, which decides whether TLS is used, and no slash at its end."""
    scheme, colon, rest = text.partition(":")
    return f"{scheme.lower()}{colon}{rest.rstrip('/')}"


def _url(raw: object) -> str:
    text = _text(raw, "https://192.168.111.128:2379")
    if not is_url(text):
        _refuse("write http:// or https://, a host and a port, such as https://192.168.111.128:2379")
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        _refuse("leave out the part after ? or #")
    return normal_url(text)


def _user(raw: object) -> str:
    name = _text(raw, "vxland")
    if not name or name.isspace():
        _refuse("name a user of this machine, such as vxland, or remove the key")
    return name


def _or_auto(least: int, most: int) -> WithJsonSchema:
    """Return the range for a JSON schema."""
    return WithJsonSchema({"type": ["integer", "string"], "minimum": least, "maximum": most, "pattern": "^auto$"})


MacValue = Annotated[Mac, PlainValidator(_mac)]
HostValue = Annotated[Address, PlainValidator(_host)]
SubnetsValue = Annotated[
    tuple[Annotated[Subnet, PlainValidator(_subnet)], ...], ONE_IS_LIST, AfterValidator(_one_per_family)
]
SourcesValue = Annotated[
    tuple[Annotated[Subnet, PlainValidator(_source)], ...], ONE_IS_LIST, Field(max_length=MAX_SOURCES)
]
SourcesByVtepValue = Annotated[
    tuple[tuple[Address, tuple[Subnet, ...]], ...],
    PlainValidator(_sources_by_vtep),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "array"]}}),
]
MtuValue = Annotated[int | None, PlainValidator(_mtu), _or_auto(MIN_MTU, MAX_MTU)]
TtlValue = Annotated[int | None, _number(1, 255, "inherit")]
DscpValue = Annotated[int | None, _number(0, 63, "inherit")]
WorkersValue = Annotated[int | None, PlainValidator(_workers), _or_auto(1, MAX_WORKERS)]
IfnameValue = Annotated[str, PlainValidator(_ifname)]
LinksValue = Annotated[tuple[Annotated[str, PlainValidator(_link)], ...], BeforeValidator(_links)]
FileValue = Annotated[Path, PlainValidator(_file)]
SocketValue = Annotated[
    Path, PlainValidator(_socket_path), WithJsonSchema({"type": "string", "pattern": "^/", "maxLength": _SUN_PATH_LEN})
]
MemoryValue = Annotated[Path | None, PlainValidator(_memory_path)]
ListenValue = Annotated[Listen | None, PlainValidator(_listen)]
RegexValue = Annotated[str, PlainValidator(_regex)]
UserValue = Annotated[str, PlainValidator(_user)]
UrlValue = Annotated[str, PlainValidator(_url)]
