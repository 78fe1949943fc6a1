"""The base class of each group of settings, and YAML's shorthands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

RELOADABLE: Final = "reloadable"
"""In a field's metadata: a reload applies the setting to the running node."""


@dataclass(frozen=True, slots=True)
class ReadBy:
    """In the metadata of a field or a section: the registry kinds that read it, and why the others do not."""

    kinds: tuple[str, ...]
    why: str


STORES: Final = ("etcd", "kube")
"""Kinds of registries that take the network and the leases from a store of flannel's."""


class Section(BaseModel):
    """A group of settings; frozen, and every key is known."""

    # Without use_attribute_docstrings, which parses the source of each class at every start: a tenth of its CPU time.
    model_config = ConfigDict(frozen=True, extra="forbid")


def listed(raw: object) -> object:
    """Return a list as it is, and any other value as a list of it."""
    return raw if isinstance(raw, list | tuple) else [raw]


def _off(raw: object) -> object:
    return "off" if raw is False else raw  # YAML 1.1 reads a bare off as false


def _on_off(raw: object) -> object:
    return {True: "on", False: "off"}[raw] if isinstance(raw, bool) else raw  # as YAML 1.1 reads them


def _peers(raw: object) -> object:
    return [] if raw is None else raw  # `peers:` with every entry commented out


Flag = Annotated[bool, Field(strict=True)]
ONE_IS_LIST = BeforeValidator(listed)
OFF_IS_FALSE = BeforeValidator(_off)
ON_OFF = BeforeValidator(_on_off)
NONE_IS_EMPTY = BeforeValidator(_peers)


def folder(variable: str, usual: str) -> Path:
    """Return the folder of `variable` that systemd made for this service, or `usual` without one or with several."""
    made = os.environ.get(variable, "")
    return Path(made if made.startswith("/") and ":" not in made else usual)
