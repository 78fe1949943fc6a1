#!/usr/bin/env python3
"""Check the English of docstrings, comments, messages and documentation against the rules that a program can hold.

    tools/prose.py                    # the whole repository
    tools/prose.py docs README.md     # these files and folders
    tools/prose.py --count            # totals for each rule and top folder

The rules:

- A docstring starts with a verb or a noun, never with What, Who, Which, How or the like.
- Words that read like a translation have a plain replacement: `WORDS` lists both.
- A sentence of a page's paragraphs has at most 30 words, with --strict at most 25. Tables, lists and code are exempt.
- A line of the changelog has at most 120 columns.

Code in backquotes is never checked. In Python the words are checked in docstrings and comments, in the names of tests,
and outside tests/ also in string literals of two words or more and in the names of log events.

Output: one `path:line: message` for each finding. Exit status: 0 no findings, 1 findings, 2 usage error.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("vxland", "tests", "tools", "docs", "configs", "deploy", "systemd", ".ci")
SOURCES: Final = frozenset({".py", ".pxd", ".md"})
WHOLE_LINES: Final = frozenset({".yaml", ".yml", ".json", ".service", ".conf", ".html", ".5", ".8"})
ONLY_COMMENTS: Final = frozenset({".toml", ".sh", "Makefile", "Dockerfile", "run"})  # by suffix, or name without one
SKIPPED: Final = {"build", "vectors", "corpus", "__pycache__"}
KEPT_EVENTS: Final = frozenset({"leases_remembered", "registry_trouble"})  # log events that users' alerts match
ITSELF: Final = "tools/prose.py"  # its literals quote what it finds
CHANGELOG: Final = "CHANGELOG.md"

COLUMNS: Final = 120
SENTENCE, STRICT_SENTENCE = 30, 25  # words
FIRST_WORD: Final = re.compile(r"\W*(What|Who|Whose|Whom|Which|How|Where|When|Why)\b(?!-)")
SENTENCE_END: Final = re.compile(r"(?<=[^.\s][.!?])[)\"'*]*(?:\s+|$)")
ABBREVIATION: Final = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|incl)\.")
CODE: Final = re.compile(r"``[^`]*``|`[^`]*`")
CODE_WORD: Final = "X"  # a span of code counts as one word of its sentence
SEVERAL_WORDS: Final = re.compile(r"\S\s+[A-Za-z]{2}|\s[A-Za-z]{3}")


@dataclass(frozen=True, slots=True)
class Word:
    """A word or phrase and the plain English for it."""

    name: str
    """As totals show it."""
    pattern: re.Pattern[str]
    replacement: str
    unless: re.Pattern[str] | None = None
    """On the same line or on one next to it, this says that the word is the right one."""
    folder: str = ""
    """The only top folder in which the rule applies; empty: all."""


def _word(forms: str, replacement: str, unless: str | None = None, folder: str = "") -> Word:
    """A rule for `forms`, separated by bars; a space in one of them also matches a line break."""
    spaced = forms.replace(" ", r"\s+(?:#\s*)?")  # the next line of a comment has its own sign
    pattern = re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE)
    return Word(re.split(r"[|(?]", forms)[0], pattern, replacement, re.compile(unless) if unless else None, folder)


WORDS: Final = (
    _word("octet|octets", "byte(s); octet only beside the RFC that says so", unless="RFC|IEEE"),
    _word("tell|tells|told|telling", "report, log, say, show, distinguish; or name what is stored"),
    _word("mend|mends|mended|mending", "repair, restore, fix"),
    _word("stranger|strangers", "unknown sender(s)"),
    _word(
        r"odd(?! (?:\d|numbers?|lengths?|counts?|sizes?|bytes?|words?|offsets?|address|sum|one))|oddly|oddity|oddities",
        "unusual, inconsistent, conflict",
        unless=r"\b[Ee]ven\b",
    ),
    _word("suffering", "fault"),
    _word("whoever|whomever|whosoever", "anyone who; or name the person or program"),
    _word("whom", "name the person, program or node"),
    _word("thereof|therein|thereupon|whereof|wherein|whereupon|hitherto|whence|henceforth", "two sentences"),
    _word("anew|afresh", "again"),
    _word("for ever", "forever, indefinitely"),
    _word("come to nothing|comes to nothing|came to nothing", "fails, has no effect"),
    _word("look again|looks again|looked again|looking again", "retry, check again"),
    _word("looked at|looked into|looked after", "checked, examined, read"),
    _word("of before", "the old, the previous, the earlier"),
    _word("pods to come|frames to come|packets to come|leases to come", "new, later"),
    _word("story|stories|eyes|keeper|keepers|gate|gates|book|books", "the plain name: trial, telemetry, sync, filter"),
    _word("mad", "misbehaving"),
    _word("wish|wishes|wished", "setting, request; requested, configured"),
    _word("vouch|vouches|vouched", "verify, guarantee"),
    _word("is away|are away|was away|were away|be away|been away", "unavailable, unreachable"),
    _word("no need of", "does not need"),
    _word("remember|remembers|remembered|remembering", "cache, store, keep"),
    _word("kin", "related, similar"),
    _word("trouble|troubles", "problem, fault, failure"),
    _word("nought|naught|lest|ere|amid|whither|whilst", "plain English"),
    _word("standin|standins|stand-in|stand-ins", "fake, substitute"),
    _word("journal|journals", "fault report, log", unless=r"systemd|journald|journalctl|\bunit", folder="tests"),
)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One violation of a rule: `path:line: message`."""

    path: str
    line: int
    message: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Passage:
    """Prose as it stands in a file, its lines joined by newlines, and the number of its first line."""

    line: int
    text: str


def check(path: str, text: str, *, sentence: int = SENTENCE) -> list[Finding]:
    """Check one file: `path` is relative to the repository and decides which rules apply."""
    suffix = Path(path).suffix
    if suffix == ".py":
        return sorted({*_check_docstrings(path, text), *_check_words(path, _python_passages(path, text))})
    if suffix == ".pxd":
        return sorted(_check_words(path, _comments(text)))
    if suffix == ".md":
        more = _check_columns(path, text) if path == CHANGELOG else _check_sentences(path, text, sentence)
        return sorted({*_check_words(path, _markdown_passages(text)), *more})
    return sorted(_check_words(path, _lines(text, only_comments=_kind(Path(path)) in ONLY_COMMENTS)))


def _check_words(path: str, passages: Iterable[Passage]) -> Iterator[Finding]:
    top = path.partition("/")[0]
    for passage in passages:
        text = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), passage.text)
        for word in WORDS:
            if word.folder and word.folder != top:
                continue
            for match in word.pattern.finditer(text):
                at = text.count("\n", 0, match.start())
                nearby = "\n".join(passage.text.split("\n")[max(0, at - 1) : at + 2])
                if not (word.unless and word.unless.search(nearby)):
                    said = " ".join(match[0].split())
                    yield Finding(path, passage.line + at, f'"{said}": {word.replacement}', f"word: {word.name}")


def _check_docstrings(path: str, text: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = FIRST_WORD.match(ast.get_docstring(node, clean=False) or "")
            if first is not None:
                message = f'docstring starts with "{first[1]}": start with a verb or with the noun that it describes'
                yield Finding(path, node.body[0].lineno, message, "first word")


def _check_columns(path: str, text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS:
            yield Finding(path, number, f"{len(line)} columns: at most {COLUMNS}", "columns")


def _check_sentences(path: str, text: str, limit: int) -> Iterator[Finding]:
    for passage in _paragraphs(text):
        at = 0
        masked = ABBREVIATION.sub(lambda match: match[0].replace(".", "_"), passage.text)
        for end in SENTENCE_END.finditer(masked):
            words = [word for word in masked[at : end.start()].split() if re.search(r"\w", word)]
            if len(words) > limit:
                line = passage.line + masked.count("\n", 0, at)
                start = " ".join(words[:5])
                message = f'sentence of {len(words)} words, at most {limit}: "{start} ..."'
                yield Finding(path, line, message, "sentence")
            at = end.end()


def _python_passages(path: str, text: str) -> Iterator[Passage]:
    """Docstrings, comments and test names; outside tests/ also messages and the names of log events."""
    quotes = path.startswith("tests/") or path == ITSELF
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from _comments(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings or (not quotes and SEVERAL_WORDS.search(node.value)):
                yield Passage(node.lineno, node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield Passage(node.lineno, node.name.replace("_", " "))
        elif not quotes and isinstance(node, ast.Call):
            yield from _event(node)


def _event(call: ast.Call) -> Iterator[Passage]:
    """The name of the event that `call` logs, as words."""
    match call:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log")), args=[ast.Constant(value=str() as name), *_]) if (
            name not in KEPT_EVENTS
        ):
            yield Passage(call.lineno, name.replace("_", " "))


def _comments(text: str) -> Iterator[Passage]:
    """Comments; those on consecutive lines make one passage."""
    lines: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1 and lines:
                yield Passage(first, "\n".join(lines))
                lines = []
            first = first if lines else token.start[0]
            last = token.start[0]
            lines.append(token.string)
    if lines:
        yield Passage(first, "\n".join(lines))


def _markdown_passages(text: str) -> Iterator[Passage]:
    """All text of a page outside code: of paragraphs, headings, lists and tables."""
    line = 0
    for token in _tokens(text):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            yield Passage(line, _plain(token, code=" "))


def _paragraphs(text: str) -> Iterator[Passage]:
    """The paragraphs of a page that belong to no list and no table."""
    inside = 0
    previous = ""
    for token in _tokens(text):
        if token.type in {"list_item_open", "table_open"}:
            inside += 1
        elif token.type in {"list_item_close", "table_close"}:
            inside -= 1
        elif token.type == "inline" and token.map and not inside and previous == "paragraph_open":
            yield Passage(token.map[0] + 1, _plain(token, code=CODE_WORD))
        previous = token.type


def _tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def _plain(inline: Token, code: str) -> str:
    """The text of one inline token: without markup and targets of links, with `code` for each span of code."""
    breaks = {"softbreak": "\n", "hardbreak": "\n", "code_inline": code, "text": None, "html_inline": " "}
    parts = (breaks.get(child.type, "") for child in inline.children or ())
    return "".join(
        child.content if part is None else part for child, part in zip(inline.children or (), parts, strict=True)
    )


def _lines(text: str, *, only_comments: bool) -> Iterator[Passage]:
    """Each line of another file: of a manual page without its escapes, of a program only what follows a #."""
    for number, line in enumerate(text.splitlines(), 1):
        prose = re.sub(r"^.*?(?:^|\s)#|^(?!.*(?:^|\s)#).*", "", line) if only_comments else line
        yield Passage(number, re.sub(r"\\f[A-Z]|\\&|\\(?=-)", "", prose))


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files to check among `paths`, folders included with all that they hold."""
    for path in paths:
        if path.is_file():
            yield path
        else:
            yield from (one for one in sorted(path.rglob("*")) if one.is_file() and _is_prose(one.relative_to(path)))


def _is_prose(path: Path) -> bool:
    return not SKIPPED.intersection(path.parts) and _kind(path) in SOURCES | WHOLE_LINES | ONLY_COMMENTS


def _kind(path: Path) -> str:
    return path.suffix or path.name


def _everything() -> list[Path]:
    top = (path for path in sorted(ROOT.iterdir()) if path.is_file() and _is_prose(path.relative_to(ROOT)))
    return [*top, *(ROOT / folder for folder in FOLDERS)]


def table(findings: Iterable[Finding]) -> Iterator[str]:
    """Totals: a line for each rule, a column for each top folder."""
    counts = Counter((finding.rule, _top(finding.path)) for finding in findings)
    tops = sorted({top for _, top in counts})
    rules = sorted({rule for rule, _ in counts})
    yield f"{'':<22}" + "".join(f"{name:>10}" for name in [*tops, "total"])
    for rule in [*rules, "total"]:
        row = [sum(n for (of, at), n in counts.items() if rule in {of, "total"} and at == top) for top in tops]
        yield f"{rule:<22}" + "".join(f"{n:>10}" for n in [*row, sum(row)])


def _top(path: str) -> str:
    folder, slash, _ = path.partition("/")
    return folder if slash else "(top)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, prog="tools/prose.py"
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files and folders (the whole repository)")
    parser.add_argument(
        "--strict", action="store_true", help=f"sentences of at most {STRICT_SENTENCE} words, not {SENTENCE}"
    )
    parser.add_argument("--count", action="store_true", help="show totals for each rule and top folder instead")
    args = parser.parse_args(arguments)
    if missing := [str(path) for path in args.paths if not path.exists()]:
        parser.error(f"{missing[0]}: no such file or folder")
    found: list[Finding] = []
    for path in files([path.resolve() for path in args.paths] or _everything()):
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        text = path.read_text(encoding="utf-8")
        found += check(name, text, sentence=STRICT_SENTENCE if args.strict else SENTENCE)
    sys.stdout.writelines(f"{line}\n" for line in (table(found) if args.count else found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
