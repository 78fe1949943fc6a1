"""docs/rootless.md, "Two machines", executed by an ordinary user of each node, with the user units of this checkout.

node a   pod 10.244.0.19 - cni0 - flannel.1 - vxland - sockets - e0 192.168.111.128 ===== .129 e0 - the same   node b
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.systemd.node import MAC, Node, wait_until

USER = "alice"
UNIT = "vxland-rootless.service"
PINGS = 200
OUTPUT = "/tmp/ping"  # noqa: S108  (the node is the test's own)

Blocks = list[str]


@pytest.fixture(scope="module")
def users(nodes: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """Both nodes, with the user and a checkout's units; the user ends with the test."""
    for node in nodes:
        shutil.copytree(ROOT / "systemd" / "user", node.etc / "systemd" / "user")
        node.run("useradd", "--create-home", "--shell", "/bin/bash", USER)
    try:
        yield nodes
    finally:
        for node in nodes:
            node.attempt("loginctl", "terminate-user", USER)


def page() -> tuple[str, Path, str, Blocks]:
    """Return root's command, the path and text of the file, and the user's commands in blocks."""
    section = (ROOT / "docs" / "rootless.md").read_text().partition("\n## Two machines\n")[2].partition("\n## ")[0]
    found = ["\n".join(line[4:] for line in block.splitlines()) for block in re.findall(r"(?:    .*\n)+", section)]
    roots, *rest = found
    (file,) = (block for block in rest if block.startswith("# ~/"))
    path, _, text = file.partition("\n")
    return roots, Path(path.removeprefix("# ~/")), text, [block for block in rest if block != file]


def mirrored(text: str, node: Node) -> str:
    """Return a block of the page for a node: on the second, the two sides are swapped."""
    if node.number == 0:
        return text
    pairs = {"192.168.111.128": "192.168.111.129", "10.244.0.": "10.244.1.", MAC[0]: MAC[1]}
    both = {"10.244.0.0/16": "10.244.0.0/16"} | pairs | {there: here for here, there in pairs.items()}
    return re.sub("|".join(map(re.escape, both)), lambda match: both[match[0]], text)


def as_user(node: Node, script: str) -> str:
    """Run a script as the user, in a shell like that of a login, in the checkout; return its output."""
    runtime = f"/run/user/{node.run('id', '-u', USER).strip()}"
    shell = ("env", "-C", "/etc/vxland", f"XDG_RUNTIME_DIR={runtime}", "bash", "-ec", script)
    done = node.attempt("runuser", "-u", USER, "--", *shell)
    log = "" if done.returncode == 0 else node.attempt("journalctl", "-n", "60", "-o", "cat", "--no-pager").stdout
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{log}"
    return done.stdout


def test_the_page_is_true(users: tuple[Node, Node]) -> None:
    """Every command of the page on both nodes; then pods ping each other, also while vxland ends and starts again."""
    roots, path, text, blocks = page()
    *setup, ping = blocks
    outputs = []
    for node in users:
        node.run(*roots.split())
        runtime = Path("/run/user") / node.run("id", "-u", USER).strip()
        manager = str(runtime / "systemd" / "private")
        wait_until(lambda: node.attempt("test", "-S", manager).returncode == 0, "the user's systemd")  # noqa: B023
        target = f"/home/{USER}/{path}"
        write = f"mkdir -p $(dirname {target}) && cat >{target} <<'END'\n{mirrored(text, node)}\nEND"
        outputs.append(as_user(node, "\n".join([write, *(mirrored(block, node) for block in setup)])))
    for node, said in zip(users, outputs, strict=True):
        assert f"{mirrored(str(path), node)}: good" in said
        assert "  ready      yes" in said
        assert "inherited sockets, MTU 1500" in said
        assert "user root, CAP_NET_ADMIN, CAP_NET_RAW, no new privileges" in said
    functions = next(block for block in setup if block.startswith("inside()")).splitlines()[0]
    assert " 0% packet loss" in as_user(users[0], f"{functions}\n{ping}")

    # RootlessKit writes its child_pid without a line break.
    as_user(users[0], 'cd $XDG_RUNTIME_DIR; printf %s "$(cat vxland-namespace.pid)" >pid; mv pid vxland-namespace.pid')
    flood = f"{ping.replace('-c 3', f'-c {PINGS} -i 0.01 -W 5')} >{OUTPUT} & pinging=$!"
    for end in (f"systemctl --user restart {UNIT}", f"systemctl --user kill --signal=KILL {UNIT}"):
        as_user(users[0], f"{functions}\n{flood}\n{end}\nwait $pinging")
        assert f"{PINGS} received" in users[0].run("cat", OUTPUT)
    kept = as_user(users[0], f"systemctl --user show --property=NFileDescriptorStore --value {UNIT}")
    assert int(kept) == 2  # the TAP queues; the sockets are the socket unit's


def test_the_units_are_well_formed(users: tuple[Node, Node]) -> None:
    """systemd-analyze reports no problem."""
    as_user(users[0], "systemd-analyze --user verify ~/.config/systemd/user/vxland-rootless.service")
