"""Settings from a YAML text, or every problem of the text at once."""

from __future__ import annotations

import re
import reprlib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from vxland.config.check import check
from vxland.config.settings import PeerSettings, Settings
from vxland.model.errors import ConfigError, InvalidConfigError

_NAME = re.compile(r"\b(alias|anchor|tag|handle) '.*'")
"""The names that YAML's errors quote. A password that begins with `*`, `&` or `!` is one, without quotes."""

_IN_QUOTES = ": a text that begins with * & or ! needs quotes"
MAX_FILE = 16 << 20
"""Bytes of a configuration file; 20,000 peers take 2 MB."""

_LONG = 80  # characters of a value that an error shows

_REMEDIES = {  # by pydantic's type of error; what is in braces comes with the error
    "missing": "add it: every peer has a subnet, a vtep and a mac",
    "int_type": "write a whole number, without quotes",
    "greater_than_equal": "use {ge} or more",
    "less_than_equal": "use {le} or less",
    "string_type": "write text; in quotes where it looks like a number or a word such as yes",
    "bool_type": "write true or false, without quotes",
    "too_long": "list at most {max_length}, prefixes where there are more",
    "tuple_type": "write a list with an entry for each node",
}


def load(path: Path) -> Settings:
    """Return the settings of the file at `path`. InvalidConfigError with every problem of it."""
    return settings_of(read(path))


def read(path: Path) -> dict[str, Any]:
    """Return the sections of the file at `path`, for settings_of(). InvalidConfigError if it is no such file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            size = f"more than {MAX_FILE >> 20} MiB"
            raise InvalidConfigError([ConfigError(str(path), size, "name a configuration file")])
        text = content.decode("utf-8")
    except OSError as exc:
        raise InvalidConfigError(
            [ConfigError(str(path), exc.strerror, "name a configuration file that can be read")]
        ) from exc
    except UnicodeDecodeError as exc:
        raise InvalidConfigError(
            [ConfigError(str(path), f"byte {exc.start}: {exc.reason}", "save the file as UTF-8")]
        ) from exc
    return _read(text, str(path))


def parse(text: str, source: str = "configuration") -> Settings:
    """Return the settings of a YAML text. InvalidConfigError with every problem; one without a key has `source`."""
    return settings_of(_read(text, source))


def settings_of(raw: dict[str, Any]) -> Settings:
    """Return the settings of sections as a file holds them. InvalidConfigError with every problem of them."""
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        problems = [_problem(raw, error) for error in errors]
        sound, peer_numbers = _without(raw, errors)
        settings = Settings.model_validate(sound)
    else:
        problems, peer_numbers = [], list(range(len(settings.registry.peers)))
    faulty = {problem.key.partition("[")[0] for problem in problems if not problem.key.startswith("registry.peers[")}
    # A part at fault was left out, and check() may call it missing.
    problems += [problem for problem in check(settings, peer_numbers) if problem.key not in faulty]
    if problems:
        raise InvalidConfigError(problems)
    return settings


class _Loader(yaml.SafeLoader):
    """YAML's safe subset. A key given twice is an error; every error is a YAMLError with its place."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None:
            node.end_mark = None  # unused, and a megabyte for 1,000 peers
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401  (as the base class has it)
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401  (what YAML has)
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError) as exc:  # such as the date 2026-99-99, or !!int x
            raise ConstructorError(None, None, "this value cannot be read", node.start_mark) from exc


def _read(text: str, source: str) -> dict[str, Any]:
    """Return the text's mapping of sections, with printable keys, and empty sections as empty mappings."""
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem, special = _NAME.subn(r"\1", exc.problem or "")
        remedy = f"correct the YAML there{_IN_QUOTES if special else ''}"
        raise InvalidConfigError([ConfigError(source, f"{place}{problem}", remedy)]) from exc
    except yaml.YAMLError as exc:  # a character that YAML forbids
        raise InvalidConfigError([ConfigError(source, " ".join(str(exc).split()), "correct the YAML there")]) from exc
    except RecursionError as exc:
        raise InvalidConfigError(
            [ConfigError(source, "nested too deeply", "indent as configs/vxland.yaml does")]
        ) from exc
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise InvalidConfigError([ConfigError(source, _shown(raw), f"write a mapping of {_keys_of(Settings)}")])
    doc = {
        key: {} if value is None and key in Settings.model_fields else _named(value)
        for key, value in _named(raw).items()
    }
    registry = doc.get("registry")
    if isinstance(registry, dict) and isinstance(registry.get("peers"), list):
        registry["peers"] = [_named(peer) for peer in registry["peers"]]
    return doc


def _named(raw: Any) -> Any:  # noqa: ANN401  (what YAML has)
    """Return a copy of a mapping with keys that print on one line; anything else as it is."""
    if not isinstance(raw, dict):
        return raw
    return {
        key if isinstance(key, str) and key and key.isprintable() else ascii(key): value for key, value in raw.items()
    }


def _without(raw: dict[str, Any], errors: list[ErrorDetails]) -> tuple[dict[str, Any], list[int]]:
    """Return a copy without the parts at fault, whose rest can still be checked, and the numbers of its peers."""
    doc = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    registry = doc.get("registry")
    entries = registry.get("peers") if isinstance(registry, dict) else None
    peers = dict(enumerate(entries)) if isinstance(entries, list) else {}
    for error in errors:
        match error["loc"]:
            case ("registry", "peers", int(number), name) if error["type"] == "extra_forbidden" and number in peers:
                peers[number] = {key: value for key, value in peers[number].items() if key != name}
            case ("registry", "peers", int(number), *_):
                peers.pop(number, None)
            case (section, name, *_) if isinstance(doc.get(str(section)), dict):
                doc[str(section)].pop(name, None)
            case (section, *_):
                doc.pop(str(section), None)
    if isinstance(entries, list):
        doc["registry"]["peers"] = list(peers.values())
    return doc, list(peers)


def _problem(raw: dict[str, Any], error: ErrorDetails) -> ConfigError:
    """Return a pydantic error as key, value and remedy."""
    at: Any = raw
    key = ""
    for step in error["loc"]:
        if isinstance(step, str):
            at = at.get(step) if isinstance(at, dict) else None
            key += f".{step}"
        elif isinstance(at, list):  # else it is one value in place of a list of one
            at = at[step]
            key += f"[{step}]"
    remedy = _remedy(error)
    secret = "password" in key or "password" in remedy  # also if its key is misspelt
    return ConfigError(key.removeprefix("."), "**********" if secret else _shown(at), remedy)


def _remedy(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])  # values.py writes its refusals as remedies
        case "extra_forbidden":
            return _nearest(error["loc"])
        case "too_short":
            return f"list at least one {str(error['loc'][-1]).removesuffix('s')}"
        case "literal_error":
            return f"write {context['expected'].replace(chr(39), '')}"
        case "model_type":
            return f"write a mapping of {_keys_of(_model_at(error['loc']))}"
    return _REMEDIES.get(error["type"], error["msg"]).format_map(context)


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model of the mapping at `loc`."""
    if len(loc) > 1:
        return PeerSettings
    model = Settings.model_fields[str(loc[0])].annotation if loc else Settings
    return model if isinstance(model, type) and issubclass(model, BaseModel) else Settings


def _keys_of(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _nearest(loc: tuple[int | str, ...]) -> str:
    """Return the remedy for an unknown key: the nearest known key, or its section."""
    *parents, name = loc
    model = _model_at(tuple(parents))
    if close := get_close_matches(str(name), model.model_fields, n=1):
        return f"write {close[0]}: this key is not known"
    for section in Settings.model_fields:
        if name in _model_at((section,)).model_fields:
            return f"write it under {section}: this key is not known here"
    return f"remove it, or write one of {_keys_of(model)}: this key is not known"


def _shown(value: object) -> object:
    """Return a value as an error shows it: short, and on one line."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _LONG else f"a number of {value.bit_length()} bits"
    text = value if isinstance(value, str) else _SHORT.repr(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


class _Short(reprlib.Repr):
    """Shortened lists and mappings."""

    def repr_int(self, number: int, level: int) -> str:  # noqa: ARG002  (reprlib's signature)
        """Return a number; Python refuses to write one of 4,301 digits, which hex can spell."""
        return str(_shown(number))


_SHORT = _Short()
_SHORT.maxlevel = 2
