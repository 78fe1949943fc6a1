"""The choice of the gear: by the environment, for every module, and for this package alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import vxland.forwarding.pump

ROOT = Path(__file__).parents[2]
PACKAGE = Path(vxland.__file__).parent
BUILT = any(PACKAGE.glob("forwarding/pump.*.so"))

ASK = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    print(import_module(name).__file__)
import vxland.forwarding.pump
print(vxland.forwarding.pump.COMPILED)
"""


def compiled_list() -> list[str]:
    """The modules that setup.py compiles."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError


def loaded(pure: str | None) -> tuple[set[str], str]:
    """The suffixes of the files that the data path's modules are loaded from in a new process, and COMPILED there."""
    env = {key: value for key, value in os.environ.items() if key != "VXLAND_PURE"}
    if pure is not None:
        env["VXLAND_PURE"] = pure
    run = subprocess.run(
        [sys.executable, "-c", ASK, *compiled_list()], env=env, cwd=ROOT, check=True, capture_output=True, text=True
    )
    *files, compiled = run.stdout.splitlines()
    assert len(files) == len(compiled_list())
    return {Path(file).suffix for file in files}, compiled


@pytest.mark.parametrize("value", ["1", "yes", "true"])
def test_pure_loads_sources_alone(value: str) -> None:
    """With the extensions lying beside them: no module of one gear among those of the other."""
    assert loaded(value) == ({".py"}, "False")


@pytest.mark.skipif(not BUILT, reason="the compiled gear is not built here")
@pytest.mark.parametrize("value", [None, "", "0"])
def test_otherwise_every_extension_is_loaded(value: str | None) -> None:
    """One stale or missing extension would silently put half a data path into the slow gear."""
    assert loaded(value) == ({".so"}, "True")


def test_these_tests_run_in_the_gear_that_was_asked_for() -> None:
    """Otherwise the second run of the suite would test the same gear again."""
    assert (BUILT and not vxland.pure_wanted()) == vxland.forwarding.pump.COMPILED


def test_every_typed_module_is_compiled() -> None:
    """setup.py compiles every module with a .pxd, but forwarding/io/syscalls, which has a body for each gear."""
    typed = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE.rglob("*.pxd")
        if path.stem != "__init__"
    }
    assert typed - {"vxland.forwarding.io.syscalls"} == set(compiled_list())


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True), ("no", True)])
def test_what_the_variable_means(monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool) -> None:
    """Unset, empty and 0 say no; anything else says yes."""
    monkeypatch.delenv("VXLAND_PURE", raising=False)
    if value is not None:
        monkeypatch.setenv("VXLAND_PURE", value)
    assert vxland.pure_wanted() == wanted


def test_the_finder_is_for_this_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' extensions are found as ever, and a module of ours that does not exist is not found."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("VXLAND_PURE", "1")
    vxland.select_gear()
    finder = sys.meta_path[0]
    assert find_spec("vxland.nothing_of_that_name") is None
    assert finder.find_spec("_ctypes", None) is None
    assert finder.find_spec("vxlandish.wire", [str(PACKAGE / "forwarding")]) is None
    spec = finder.find_spec("vxland.forwarding.pump", [str(PACKAGE / "forwarding")])
    assert spec is not None
    assert spec.origin == str(PACKAGE / "forwarding/pump.py")
