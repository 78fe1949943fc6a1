"""The configuration file: YAML."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pydantic import BaseModel, SecretStr

from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.config.load import parse
from vxland.model.errors import InvalidConfigError

_CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = [
    *(path.read_bytes() for path in sorted(_CONFIGS.glob("*.yaml"))),
    b"""overlay: {network: [10.244.0.0/16, fd00:10:244::/48], subnet: [10.244.0.0/24, fd00:10:244:10::/64], mtu: 1400,
  vni: 7, port: 4789, device: vx0, mac: ce:5f:f6:73:cf:b9}
underlay: {interface: ens33, address: 192.168.111.128, public_address: 203.0.113.7, source_ports: 8}
registry:
  peers: [&p {subnet: 10.244.1.0/24, vtep: 192.168.111.129, mac: "3a:87:cf:81:6a:ce"}, *p]
security: {source_check: strict}
""",
    b"overlay: {network: 10.244.0.0/16}\nregistry: {kind: etcd}\netcd: {endpoints: [http://127.0.0.1:2379]}\n",
    b"overlay:\n  mtu: 0x5aa\n  vni: 99999999999\n  subnet: 2026-13-99\nunderlay: !!int x\nregistry: [1, {2: 3}]\n",
    b"{? [a, b] : c, <<: {overlay: !!set {x}}, security: ~, metrics: {listen: 1:2:3}}",
]


def checking() -> AbstractContextManager[Check]:
    """Nothing needs to be open."""
    return nullcontext(check)


def check(raw: bytes) -> None:
    """Settings that read the same once more, or every problem by its key, on one line each."""
    text = raw.decode(errors="replace")
    try:
        settings = parse(text, "vxland.yaml")
    except InvalidConfigError as exc:
        assert exc.problems
        for problem in exc.problems:
            check_told(str(problem))
            assert problem.remedy
        return
    again = parse(json.dumps(written(settings)), "vxland.yaml")
    assert again.model_dump(warnings=False) == settings.model_dump(warnings=False)


def written(value: object) -> object:
    """A setting as a file may hold it; None is a default, or the meaning of an empty value."""
    if isinstance(value, BaseModel):
        given = {name: getattr(value, name) for name in value.model_fields_set}
        fields = type(value).model_fields
        return {
            name: "" if each is None else written(each)
            for name, each in given.items()
            if each is not None or fields[name].default is not None
        }
    if isinstance(value, tuple | list):
        return [written(each) for each in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if type(value) in {bool, int} else str(value)  # of a SourceCheck the word
