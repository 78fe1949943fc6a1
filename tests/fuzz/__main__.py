"""`python -m tests.fuzz run TARGET FOLDER [libFuzzer's options]`: fuzz from what is stored, its seeds and FOLDER.

`python -m tests.fuzz store TARGET FOLDER`: the inputs in FOLDER become the stored ones. See `make fuzz`.
"""

from __future__ import annotations

import gc
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

from tests.fuzz import NAMES, target
from tests.fuzz.stored import inputs, store

USAGE = 2


def run(name: str, folder: Path, options: list[str]) -> None:
    """Fuzz until the options say stop, then end the process; what widens the coverage goes to the folder."""
    with atheris.instrument_imports(include=["vxland", "yaml"]):  # where it is not compiled
        chosen = target(name)
    folder.mkdir(parents=True, exist_ok=True)
    for raw in [*chosen.SEEDS, *inputs(name)]:
        (folder / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
    words = folder.with_suffix(".words")
    words.write_text("".join(f'"{word}"\n' for word in sorted(vocabulary(chosen.SEEDS))), encoding="ascii")
    with chosen.checking() as check:
        gc.freeze()  # or each full collection would visit every module's objects
        atheris.Setup([sys.argv[0], f"-dict={words}", *options, str(folder)], check)
        atheris.Fuzz()


def vocabulary(seeds: Sequence[bytes]) -> set[str]:
    """Names, numbers and addresses of texts, for the fuzzer to put where it likes."""
    return {word.decode("ascii") for raw in seeds for word in re.findall(rb"[\w.:/-]{2,40}", raw)}


def main() -> int:
    """Exit code 2 where the command line makes no sense."""
    match sys.argv[1:]:
        case ["run", name, folder, *options] if name in NAMES:
            run(name, Path(folder), options)
        case ["store", name, folder] if name in NAMES:
            store(name, [path.read_bytes() for path in Path(folder).iterdir()])
        case _:
            print(__doc__, "\nTARGET:", *NAMES, file=sys.stderr)  # noqa: T201  (a command line prints its usage)
            return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
