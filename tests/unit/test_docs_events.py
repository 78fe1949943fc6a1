"""docs/events.md lists what the code can log: each event, with its level and fields, found by parsing vxland/.

An event's name has to be there to read: a string, or the two of a conditional expression. A name that is computed, or a
logger's method that is passed on, is refused here, since nobody could look it up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "events.md"

LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
ORDER = ("error", "warning", "info", "debug")


@dataclass
class Event:
    """Levels and fields of one event, over all the places that log it."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    open: bool = False
    """Whether there are fields that the code does not name, passed on with **."""

    def row(self, name: str) -> str:
        """The row that docs/events.md should have."""
        levels = ", ".join(level for level in ORDER if level in self.levels)
        fields = ", ".join([f"`{key}`" for key in sorted(self.fields)] + ["… (say which)"] * self.open)
        return f"| `{name}` | {levels} | {fields} | when it is logged | what to do about it |"


class Finder(ast.NodeVisitor):
    """Collects the events of one module, and the uses of its logger in which no event can be read."""

    def __init__(self, module: str, found: dict[str, Event]) -> None:
        self.module = module
        self.found = found
        self.unreadable: list[str] = []
        self._names = {"log"}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """A `log` that is imported is the module ops/log.py, and no logger comes from elsewhere."""
        if node.module == "vxland.ops":
            self._names -= {alias.asname or alias.name for alias in node.names}
        elif node.module == "structlog" or any(alias.name == "log" for alias in node.names):
            self._refuse(node, "each module makes its own: import structlog; log = structlog.get_logger()")

    def visit_Call(self, node: ast.Call) -> None:
        """An event, if it is a logger's method that is called; its arguments may hold others."""
        if isinstance(node.func, ast.Attribute) and self._is_logger(node.func.value):
            self._take(node, node.func.attr)
            for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
                self.visit(part)
        else:
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """`log = structlog.get_logger()` is how a module gets its logger."""
        named = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if not (_is_get_logger(node.value) and named == ["log"]):
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A method of the logger that is not called on the spot."""
        if self._is_logger(node.value) or (isinstance(node.value, ast.Name) and node.attr == "get_logger"):
            self._refuse(node, "a logger, or its method, is passed on: call log.LEVEL(...) on the spot")
        self.generic_visit(node)

    def _take(self, node: ast.Call, method: str) -> None:
        args = list(node.args)
        levels = {LEVELS[method]} if method in LEVELS else set()
        if method == "log" and args:
            levels = {name.lower() for name in _choices(args.pop(0))}
        names = _choices(args[0]) if len(args) == 1 else set()
        if not names or not levels or levels - set(ORDER):
            self._refuse(node, "log.LEVEL takes the event's name, as a string, and keywords")
        for name in names:
            event = self.found.setdefault(name, Event())
            event.levels |= levels
            event.fields |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            event.open |= any(keyword.arg is None for keyword in node.keywords)

    def _is_logger(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in self._names) or _is_get_logger(node)

    def _refuse(self, node: ast.expr | ast.stmt, why: str) -> None:
        self.unreadable.append(f"{self.module}:{node.lineno}: {ast.unparse(node)[:60]}: {why}")


def _is_get_logger(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_logger"


def _choices(node: ast.expr) -> set[str]:
    """The strings, or constants of the module logging, that an expression may be; none where that cannot be read."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.Attribute(value=ast.Name(id="logging"), attr=level):
            return {level}
        case ast.IfExp(body=body, orelse=other) if _choices(body) and _choices(other):
            return _choices(body) | _choices(other)
    return set()


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module that has a logger of structlog's, or another module's."""
    for path in sorted((ROOT / "vxland").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"structlog|import .*\blog\b", text) and path.name != "log.py":  # which sets it up
            yield str(path.relative_to(ROOT)), ast.parse(text)


def _logged() -> tuple[dict[str, Event], list[str]]:
    """The events of vxland/, and what could not be read."""
    found: dict[str, Event] = {}
    unreadable: list[str] = []
    for module, tree in _modules():
        finder = Finder(module, found)
        finder.visit(tree)
        unreadable += finder.unreadable
    return found, unreadable


def _documented() -> dict[str, tuple[Event, str, str]]:
    """The rows of docs/events.md: levels and fields, when, what to do."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({name for name, *_ in rows}) == len(rows), "docs/events.md has an event twice"
    documented = {}
    for name, levels, fields, when, remedy in rows:  # as many cells as the table has columns, or this raises
        named, more, _ = fields.partition("…")
        event = Event(set(levels.split(", ")), set(re.findall(r"`(\w+)`", named)), bool(more))
        documented[name.strip("`")] = event, when, remedy
    return documented


def test_every_event_of_the_code_is_readable() -> None:
    """Its name stands in the call that logs it, and its level too."""
    assert _logged()[1] == []


def test_every_event_is_documented() -> None:
    """docs/events.md has a row for each event that the code can log, and no other, with its levels and fields."""
    found, documented = _logged()[0], _documented()
    assert len(found) > 40, "the code's events were not found"
    wrong = [
        f"docs/events.md needs this row, in the section it belongs to:\n{event.row(name)}"
        for name, event in found.items()
        if name not in documented
    ]
    wrong += [f"docs/events.md: remove `{name}`, which nothing logs" for name in documented.keys() - found.keys()]
    wrong += [
        f"docs/events.md: `{name}`: mend level and fields, which the code has as:\n{event.row(name)}"
        for name, event in found.items()
        if name in documented and documented[name][0] != event
    ]
    assert not wrong, "\n".join(["the log and its documentation differ:", *wrong])


def test_every_event_has_its_remedy() -> None:
    """Its row says when it is logged and what to do, even if that is nothing."""
    empty = [name for name, (_, when, remedy) in _documented().items() if not (when.strip() and remedy.strip())]
    assert empty == []


def test_names_of_events_and_fields_are_words() -> None:
    """Lower case with underscores, as STYLE asks of what machines read."""
    found = _logged()[0]
    names = set(found).union(*(event.fields for event in found.values()))
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_a_hidden_event_is_refused() -> None:
    """The finder sees what it is there for: computed names, methods passed on, other names for the logger."""
    refused = []
    for line in (
        "log.info(name, a=1)",
        "log.info(f'{name}_lost')",
        "log.info(names[0] if x else 'b')",
        "write = log.warning if x else log.debug",
        "log.log(level, 'event')",
        "log.bind(a=1).info('event')",
        "logger = structlog.get_logger()",
        "tell(log.info, 'event')",
        "from structlog import get_logger",
        "from vxland.node.plane import Plane, log",
    ):
        finder = Finder("example", {})
        finder.visit(ast.parse(line))
        refused.append((line, bool(finder.unreadable)))
    assert [line for line, seen in refused if not seen] == []
    found: dict[str, Event] = {}
    finder = Finder("example", found)
    finder.visit(ast.parse("log.log(logging.INFO if x else logging.DEBUG, 'a' if y else 'b', key=1, **more)"))
    assert found == {name: Event({"info", "debug"}, {"key"}, open=True) for name in "ab"}
    assert not finder.unreadable
