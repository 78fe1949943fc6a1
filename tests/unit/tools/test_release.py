"""tools/release.py in a scratch repository: what it refuses, with the remedy, and what it builds and tags.

The package of that repository has one small extension, so that a build takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path

import pytest

from tools.release import CHART, HELM, IMAGE, Release, changelog_problems, section_of
from tools.steps import StepError

ROOT = Path(__file__).parents[3]
TODAY = date(2025, 12, 24)
CHANGELOG = "# Changelog\n\n## 0.2.0, 2025-12-01\n\n- A second thing.\n\n## 0.1.0, 2025-11-30\n\n- A first thing.\n"

FILES = {
    "CHANGELOG.md": CHANGELOG,
    ".gitignore": "dist/\nbuild/\n*.egg-info/\n/vxland/commit\n",
    "vxland/__init__.py": '"""A package."""\n\n__version__ = "0.2.0"\n'
    "import pathlib\nCOMMIT = pathlib.Path(__file__).with_name('commit').read_text()\n",
    "vxland/__main__.py": "import os\nimport sys\nfrom vxland import COMMIT, __version__\n\n\ndef main():\n"
    '    print(f"{os.path.basename(sys.argv[0])}, version {__version__}, commit {COMMIT}")\n',
    "c/one.c": "#include <Python.h>\n"
    'static struct PyModuleDef one = {PyModuleDef_HEAD_INIT, .m_name = "_one"};\n'
    "PyMODINIT_FUNC PyInit__one(void) { return PyModule_Create(&one); }\n",
    "setup.py": "import os\nimport subprocess\nfrom setuptools import Extension, setup\n"
    'one = Extension("vxland._one", ["c/one.c"], extra_link_args=["-s"])\n'
    'if os.path.isdir(".git"):\n'
    '    found = subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], text=True)\n'
    '    open("vxland/commit", "w").write(found.strip())\n'
    'setup(ext_modules=[] if os.environ.get("VXLAND_PURE") or os.path.exists("pure") else [one])\n',
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "vxland"\ndynamic = ["version"]\n'
    '[project.scripts]\nvxland = "vxland.__main__:main"\nvxlandctl = "vxland.__main__:main"\n'
    '[tool.setuptools]\npackages = ["vxland"]\npackage-data = {vxland = ["commit"]}\n'
    'dynamic = {version = {attr = "vxland.__version__"}}\n',
}

ONE = ("--wheels", f"--python {sys.version_info.major}.{sys.version_info.minor}")
"""The wheel for one Python, which takes seconds."""

NO_DOCKER = "#!/bin/sh\nexit 1\n"
DOCKER = """\
#!/bin/sh
[ "$1 $#" = "info 1" ] || [ "$1 $#" = "buildx 1" ] ||
  echo "$IMAGE:$VERSION $COMMIT $SOURCE_DATE_EPOCH $*" >>"$(dirname "$0")/asked"
"""
LATER = "build it elsewhere: VERSION=0.2.0 docker buildx bake --file docker-bake.hcl"


class Repository:
    """A clone of a project that could be released, and a PATH with a docker of the test's."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "clone", folder / "bin"
        self.bin.mkdir()
        self.root.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON", "PIP_"))}
        self.env = kept | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(folder),
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PIP_NO_INDEX": "1",
            "PYTHONPATH": str(ROOT),
        }
        (folder / "gitconfig").write_text("[user]\n\tname = A\n\temail = a@example.org\n")
        self.docker(NO_DOCKER)
        self.git("init", "-q", "-b", "main")
        for name, text in FILES.items():
            self.write(name, text)
        self.commit()

    def git(self, *args: str) -> str:
        """Run git in the clone and return its output."""
        done = subprocess.run(
            ("git", *args), cwd=self.root, env=self.env, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def write(self, name: str, text: str) -> None:
        """Write one file, without a commit."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def commit(self) -> None:
        """Commit all there is."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a commit")

    def docker(self, script: str) -> None:
        """Have `docker` be this script."""
        (self.bin / "docker").write_text(script)
        (self.bin / "docker").chmod(0o755)

    def release(self, *args: str, where: str = ".") -> subprocess.CompletedProcess[str]:
        """Run the script in a folder of the clone."""
        return subprocess.run(
            (sys.executable, "-P", "-m", "tools.release", *args),
            cwd=self.root / where,
            env=self.env,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def made(self) -> tuple[list[str], str]:
        """Return the files in dist/, and the tags."""
        return sorted(path.name for path in self.root.glob("dist/*")), self.git("tag", "--list")


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    """A repository that is ready for a release."""
    return Repository(tmp_path)


def problems(text: str, version: str = "0.2.0") -> list[str]:
    """Return the lines for a changelog."""
    return [str(problem) for problem in changelog_problems(text, version, TODAY)]


def test_a_changelog_that_is_ready() -> None:
    """The topmost section has the version, a date that has come, and text under each heading."""
    assert problems(CHANGELOG) == []
    assert problems(CHANGELOG.replace("2025-12-01", str(TODAY))) == []
    assert problems(CHANGELOG.replace("- A second", "### Added\n\n- A second")) == []
    assert problems("# Changelog\n\n## 0.2.0, 2025-12-01\n- One.") == []


@pytest.mark.parametrize(
    ("old", "new", "cause", "remedy"),
    [
        ("2025-12-01", "unreleased", "CHANGELOG.md:3: 'unreleased' is no date", "write '## 0.2.0, 2025-12-24'"),
        ("2025-12-01", "2025-13-01", "CHANGELOG.md:3: '2025-13-01' is no date", "write '## 0.2.0, 2025-12-24'"),
        ("2025-12-01", "2025-12-25", "CHANGELOG.md:3: 2025-12-25 has not come yet", "write '## 0.2.0, 2025-12-24'"),
        ("0.2.0", "0.3.0", "CHANGELOG.md has no section for 0.2.0", "write '## 0.2.0, 2025-12-24' above its lines"),
        (
            "## 0.2.0",
            "## 0.3.0, unreleased\n\n- A third.\n\n## 0.2.0",
            "CHANGELOG.md:3: the topmost section is 0.3.0, and vxland/__init__.py says 0.2.0",
            "give both the same version",
        ),
        ("- A second thing.\n", "", "CHANGELOG.md:3: '## 0.2.0, 2025-12-01' is empty", "or remove the heading"),
        ("- A second", "### Added\n\n### Fixed\n\n- A", "CHANGELOG.md:5: '### Added' is empty", "write its lines, or"),
        ("thing.\n\n## 0.1", "thing.\n\n### Fixed\n\n## 0.1", "CHANGELOG.md:7: '### Fixed' is empty", "write its"),
    ],
)
def test_a_changelog_that_is_not_ready(old: str, new: str, cause: str, remedy: str) -> None:
    """Each fault is named with its line and remedy, and alone."""
    (line,) = problems(CHANGELOG.replace(old, new, 1))
    assert line.startswith(f"{cause}: ")
    assert remedy in line


def test_a_tag_has_an_author(clone: Repository) -> None:
    """The tag is the last step: git refused it after half an hour of builds."""
    (clone.root.parent / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    done = clone.release("--dry-run")
    said = "release: git has no name and address for the tag: git config user.name, and user.email\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_older_sections_are_not_judged() -> None:
    """An old release may have any form: it can no longer be changed."""
    assert problems(CHANGELOG.replace("- A first thing.\n", "### Added\n")) == []


def test_the_section_of_a_version() -> None:
    """It goes into the message of the tag, without its heading."""
    assert section_of(CHANGELOG, "0.2.0") == "- A second thing."
    assert section_of(CHANGELOG, "0.1.0") == "- A first thing."
    assert section_of(CHANGELOG, "0.3.0") == ""


def test_a_dry_run_changes_nothing(clone: Repository) -> None:
    """It says what would be done, also from a folder below."""
    done = clone.release("--dry-run", where="vxland")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "vxland 0.2.0: ready",
        "--dry-run: would build dist/, the Debian package, the chart and the image, and tag v0.2.0",
    ]
    assert clone.made() == ([], "")
    assert clone.git("status", "--porcelain") == ""


def test_every_problem_is_reported_at_once(clone: Repository) -> None:
    """One line each, with the remedy, and nothing is built or tagged."""
    clone.git("tag", "v0.2.0")
    clone.git("switch", "-q", "-c", "topic")
    clone.write("CHANGELOG.md", CHANGELOG.replace("2025-12-01", "unreleased"))
    clone.write("one file", "")
    done = clone.release()
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line.removeprefix("release: ") for line in done.stderr.splitlines()]
    assert lines[:3] == [
        "this is topic, not main: git switch main",
        'the tree has changes: CHANGELOG.md, "one file": commit or remove them',
        "the tag v0.2.0 is there already: write the next version into vxland/__init__.py",
    ]
    assert lines[3].startswith("CHANGELOG.md:3: 'unreleased' is no date: write '## 0.2.0, 20")
    assert len(lines) == 4
    assert clone.made() == ([], "v0.2.0\n")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("vxland/__init__.py", "", "vxland/__init__.py has no version"),
        ("CHANGELOG.md", "# Changelog\n", "CHANGELOG.md has no section for 0.2.0"),
    ],
)
def test_files_without_what_is_needed(clone: Repository, name: str, text: str, said: str) -> None:
    """The file is named."""
    clone.write(name, text)
    clone.commit()
    done = clone.release("--dry-run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"release: {said}: ")


def test_outside_of_a_repository(clone: Repository, tmp_path: Path) -> None:
    """The words of git and the remedy, and no traceback."""
    done = clone.release(where=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.endswith(": start this in a clone of vxland\n")
    assert "Traceback" not in done.stderr


@pytest.mark.slow(reason="builds a wheel and installs it")
def test_a_release(clone: Repository) -> None:
    """An sdist and a compiled wheel that install, an annotated tag with the changelog's lines, and no push.

    VXLAND_PURE in the environment, as the tests set it, does not make an interpreted release.
    """
    clone.env["VXLAND_PURE"] = "1"
    done = clone.release(*ONE)
    assert done.returncode == 0, done.stderr
    files, tags = clone.made()
    assert [name.partition("-cp")[0] for name in files] == ["vxland-0.2.0", "vxland-0.2.0.tar.gz"]
    assert "-manylinux" in files[0]
    assert "no Debian package: the Makefile has no target deb" in done.stdout
    assert "no chart: there is no deploy/helm/vxland" in done.stdout
    assert tags == "v0.2.0\n"
    assert clone.git("cat-file", "-t", "v0.2.0") == "tag\n"
    assert clone.git("rev-parse", "v0.2.0^{commit}") == clone.git("rev-parse", "main")
    assert clone.git("tag", "--list", "--format=%(contents)", "v0.2.0").strip() == "vxland 0.2.0\n\n- A second thing."
    assert clone.git("status", "--porcelain") == ""
    assert f"no image: no Docker engine answers here; {LATER}" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing is pushed yet: git push origin main v0.2.0"
    again = clone.release()
    assert again.returncode == 1
    assert "the tag v0.2.0 is there already" in again.stderr


@pytest.mark.packages
@pytest.mark.skipif(not (ROOT / HELM).exists(), reason="helm is missing: make build/helm/helm")
def test_the_chart(clone: Repository) -> None:
    """It is packaged with the version of the release, whatever Chart.yaml says."""
    shutil.copytree(ROOT / CHART, clone.root / CHART)
    (clone.root / HELM).parent.mkdir(parents=True)
    (clone.root / HELM).symlink_to(ROOT / HELM)
    assert Release(clone.root, TODAY).build_chart() == "built dist/vxland-0.2.0.tgz"
    with tarfile.open(clone.root / "dist" / "vxland-0.2.0.tgz") as tar:
        (made,) = (tar.extractfile(each) for each in tar if each.name == "vxland/Chart.yaml")
        assert made is not None
        assert b"version: 0.2.0" in made.read()


def test_the_image(clone: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built under the version's tag where a Docker engine answers."""
    clone.docker(DOCKER)
    monkeypatch.setenv("PATH", clone.env["PATH"])
    assert Release(clone.root, TODAY).build_image() == f"image {IMAGE}:0.2.0"
    commit, time = clone.git("log", "-1", "--format=%H %ct").split()
    assert (clone.bin / "asked").read_text() == f"{IMAGE}:0.2.0 {commit} {time} buildx bake --file docker-bake.hcl\n"
    clone.docker('#!/bin/sh\n[ $# = 1 ] || { echo "no space left" >&2; exit 1; }\n')
    with pytest.raises(StepError, match="cannot build the image:\n  no space left"):
        Release(clone.root, TODAY).build_image()
    clone.docker('#!/bin/sh\n[ "$1" = info ]\n')
    assert Release(clone.root, TODAY).build_image() == f"no image: Docker has no plugin buildx here; {LATER}"


def test_without_docker(clone: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release goes on without an image, and says how to build one."""
    monkeypatch.setenv("PATH", str(clone.root))
    assert Release(clone.root, TODAY).build_image() == f"no image: docker is not installed here; {LATER}"


@pytest.mark.slow(reason="builds a wheel and installs it")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pure", "", "has no compiled data path: install a C compiler and Python's headers"),
        ("vxland/__main__.py", "import nothing\n", "release: cannot start vxland:"),
        ("setup.py", "import nothing\n", "wheels: cannot build the sdist:"),
    ],
)
def test_a_build_that_fails_leaves_no_tag(clone: Repository, name: str, text: str, said: str) -> None:
    """A wheel that is interpreted or does not start is no release, and dist/ stays as it was."""
    clone.write(name, text)
    clone.write("MANIFEST.in", "include pure\n")
    clone.commit()
    done = clone.release(*ONE)
    assert done.returncode == 1
    assert said in done.stderr
    assert clone.made() == ([], "")


def test_a_tag_is_signed_where_git_has_a_key(clone: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure to sign ends the release: no unsigned tag takes its place."""
    clone.git("config", "user.signingkey", "none")
    clone.git("config", "gpg.program", "false")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", clone.env["GIT_CONFIG_GLOBAL"])
    with pytest.raises(StepError, match=r"cannot git tag:(.|\n)*this failed: git tag --sign"):
        Release(clone.root, TODAY).make_tag()
    assert clone.made() == ([], "")
