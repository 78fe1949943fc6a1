"""tools/prose.py: texts that each rule finds, texts that it leaves alone, and the lines and totals that it reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.prose import CHANGELOG, check, main, table


def messages(path: str, text: str, sentence: int = 30) -> list[str]:
    """The findings in `text`, as the command line prints them."""
    return [str(finding) for finding in check(path, text, sentence=sentence)]


def words_found(path: str, text: str) -> list[str]:
    """The words that are found, in the order of lines."""
    return [finding.message.split('"')[1] for finding in check(path, text)]


@pytest.mark.parametrize("first", ["What", "Who", "Whose", "Which", "How", "Where", "When", "Why", "`What`", "*Who*"])
def test_docstrings_that_start_with_a_question(first: str) -> None:
    """A module, a class, a function, a method and a coroutine: each is found at its docstring."""
    doc = f'"""{first} goes where."""'
    text = f"{doc}\nclass A:\n    {doc}\n    def f(self):\n        {doc}\n    async def g(self):\n        {doc}\n"
    found = messages("vxland/a.py", text)
    assert [line.split(":")[1] for line in found] == ["1", "3", "5", "7"]
    assert "start with a verb" in found[0]


@pytest.mark.parametrize("first", ["Whether", "Return", "The", "Whatever", "However", "Whole", "Hardware"])
def test_other_first_words(first: str) -> None:
    """A verb or a noun is right, and so is Whether."""
    assert messages("vxland/a.py", f'"""{first} arrives."""\n') == []


def test_strings_that_are_no_docstring_may_ask() -> None:
    """The rule of the first word holds for docstrings of modules, classes and functions, not for other strings."""
    assert messages("vxland/a.py", 'A = 1\n"""How many there are."""\nB = "What now?"\n') == []


@pytest.mark.parametrize(
    "text",
    [
        "The pod is told of the MTU.",
        "It tells the log.",
        "A mended route.",
        "A stranger sends.",
        "64 octets.",
        "An odd lease.",
        "Whoever asks gets an answer.",
        "Sent to whom?",
        "The watch starts anew.",
        "It waits for ever.",
        "The pods of before.",
        "Pods to come have it.",
        "The store is away.",
        "The gate is closed.",
        "A word looked at twice.",
        "The rule looks again.",
        "An answer with a trouble.",
    ],
)
def test_words(text: str) -> None:
    """Each sentence has one word with a plain replacement: in a docstring, a comment, a message and a page."""
    assert len(words_found("vxland/a.py", f'"""{text}"""\n')) == 1
    assert len(words_found("vxland/a.py", f"# {text}\n")) == 1
    assert len(words_found("vxland/a.py", f'raise ValueError("{text}")\n')) == 1
    assert len(words_found("vxland/a.pxd", f"cdef int f() nogil  # {text}\n")) == 1
    assert len(words_found("docs/a.md", f"{text}\n")) == 1
    assert len(words_found("docs/a.md", f"| a |\n|---|\n| {text} |\n")) == 1
    assert len(words_found("docs/man/a.8", f"{text}\n")) == 1
    assert len(words_found("configs/a.yaml", f"a: 1  # {text}\n")) == 1
    assert len(words_found("Makefile", f"# {text}\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The gateway stands for the metal mendicant.",
        "An odd number of bytes.",
        "Even counts pass, odd do not.",
        "The systems of octetstream.",
        "A bookkeeping error in troubleshooting.",
        "Two octets, as RFC 7348 numbers them.",
        "Bytes of `told`, `mended` and ``a stranger``.",
    ],
)
def test_words_that_are_right(text: str) -> None:
    """Longer words, code, and the contexts in which a word is the field's own."""
    assert messages("vxland/a.py", f'"""{text}"""\n# {text}\n') == []
    assert messages("docs/a.md", f"{text}\n") == []


def test_the_term_of_an_rfc() -> None:
    """The RFC may be named on the line before or after, and no further away."""
    near = '"""The first octet, of\n\nRFC 791.\n"""\n'
    assert words_found("vxland/a.py", near.replace("\n\n", "\n")) == []
    assert words_found("vxland/a.py", near) == ["octet"]


def test_phrases_across_lines() -> None:
    """A phrase is found where a line ends within it, at the line of its first word."""
    assert messages("vxland/a.py", "a = 1  # it waits for\n#   ever\n")[0].startswith("vxland/a.py:1: ")
    assert messages("vxland/a.py", '"""Wait.\n\nWait for\never."""\n')[0].startswith("vxland/a.py:3: ")
    assert messages("docs/a.md", "# A\n\nIt waits for\never.\n")[0].startswith("docs/a.md:3: ")


def test_code_of_pages_is_not_checked() -> None:
    """Code blocks, spans and targets of links are no prose."""
    assert (
        messages("docs/a.md", "    told\n\n```\ntold\n```\n\n`told` [page](told.md)\n\n```yaml\na: told\n```\n") == []
    )


def test_strings_of_python() -> None:
    """A single word may be a key; tests may quote anything; the names of events and tests are prose."""
    assert words_found("vxland/a.py", 'a["told"]\n') == []
    assert words_found("vxland/a.py", 'log.info("route_mended")\n') == ["mended"]
    assert words_found("vxland/a.py", 'print(f"{a} was told {b}")\n') == ["told"]
    assert words_found("tests/a.py", 'a("they were told")\n') == []
    assert words_found("tests/a.py", "def test_pods_are_told() -> None: ...\n") == ["told"]


def test_programs_have_comments_only() -> None:
    """Recipes and keys are code; the text of YAML, units and manual pages is not."""
    assert words_found("Makefile", "told: book  # mad\n") == ["mad"]
    assert words_found("pyproject.toml", 'layers = ["book"]\n# told\n') == ["told"]
    assert words_found("deploy/a.yml", "description: the peer is told\n") == ["told"]
    assert words_found("docs/man/a.8", "\\fItold\\fR\n") == ["told"]


def test_a_rule_of_one_folder() -> None:
    """A journal is right where systemd keeps one, and everywhere but in tests."""
    assert words_found("vxland/a.py", "# the journal\n") == []
    assert words_found("tests/a.py", "# the journal\n") == ["journal"]
    assert words_found("tests/a.py", "# systemd's journal\n") == []


def words(count: int) -> str:
    """A sentence of so many words."""
    return " ".join(["Frames", *["cross"] * (count - 1)]) + "."


def test_long_sentences() -> None:
    """One word more than the limit is found, at the line where the sentence begins; the limit is the caller's."""
    assert messages("docs/a.md", words(30)) == []
    (found,) = messages("docs/a.md", f"# A\n\nShort one.\n{words(31)}\n")
    assert found == 'docs/a.md:4: sentence of 31 words, at most 30: "Frames cross cross cross cross ..."'
    assert len(messages("docs/a.md", words(26), sentence=25)) == 1


def test_where_sentences_end() -> None:
    """At a full stop, question or exclamation mark before a space; not at e.g., an ellipsis or within a number."""
    half = words(20).rstrip(".")
    assert messages("docs/a.md", f"{half}. {half}? {half}! `a` {half[7:]}.") == []
    assert messages("docs/a.md", f"({half}.) {half}.") == []
    assert messages("docs/a.md", f"{half}. etcd {half}.") == []
    assert len(messages("docs/a.md", f"{half}, e.g. `a` {half}.")) == 1
    assert len(messages("docs/a.md", f"{half}, ... {half}.")) == 1
    assert len(messages("docs/a.md", f"{half} 1.5 {half}.")) == 1


def test_code_counts_as_one_word() -> None:
    """A command with many words is one word of its sentence, and the target of a link is none."""
    assert messages("docs/a.md", f"Run `{words(40)}` and [read]({'a' * 300}).") == []


@pytest.mark.parametrize("form", ["- {}", "1. {}", "| {} |\n|---|\n| {} |", "- a\n\n  {}", "# {}", "    {}"])
def test_sentences_elsewhere_may_be_long(form: str) -> None:
    """Lists, tables, headings and code have no limit."""
    assert messages("docs/a.md", form.replace("{}", words(40))) == []


def test_columns_of_the_changelog() -> None:
    """Its lines have a limit, its list items have none; other pages may have longer lines."""
    line = "- " + "a" * 119
    assert messages(CHANGELOG, f"# Changelog\n\n{line[:-1]}\n{line}\n") == ["CHANGELOG.md:4: 121 columns: at most 120"]
    assert messages("docs/a.md", line) == []


def test_totals() -> None:
    """A line for each rule, a column for each top folder, and the sums of both."""
    found = [*check("docs/a.md", "Nodes are told.\n\nMended.\n"), *check("vxland/a.py", '"""What is told."""\n')]
    assert [line.split() for line in table(found)] == [
        ["docs", "vxland", "total"],
        ["first", "word", "0", "1", "1"],
        ["word:", "mend", "1", "0", "1"],
        ["word:", "tell", "1", "1", "2"],
        ["total", "2", "2", "4"],
    ]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Findings go to standard output with exit status 1; nothing found is 0, and a wrong path 2 with its name."""
    page = tmp_path / "folder" / "page.md"
    page.parent.mkdir()
    page.write_text(f"Nodes are told.\n\n{words(28)}\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f'{page}:1: "told": report, log')
    assert main(["--strict", "--count", str(page)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].split() == ["total", "2", "2"]
    page.write_text("Nodes are informed.\n")
    assert main([str(page)]) == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as refused:
        main([str(tmp_path / "absent")])
    assert refused.value.code == 2
    assert "absent: no such file or folder" in capsys.readouterr().err
