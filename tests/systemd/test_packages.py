"""tools/packages.sh on a machine with systemd: it installs servers for the tests, and starts none of them."""

from __future__ import annotations

from tests.installed import ROOT
from tests.systemd.node import Node

APT = r"""#!/bin/sh
# Stands for apt-get: makes each package, with a service and what Debian's packages do with it when they are configured.
[ "$1" = install ] || exit 0
shift
for name; do
  case $name in -*) continue ;; esac
  made=$(mktemp -d)
  mkdir -p "$made/DEBIAN" "$made/usr/lib/systemd/system"
  printf 'Package: %s\nVersion: 99\nArchitecture: all\nMaintainer: nobody\nDescription: fake\n' \
    "$name" >"$made/DEBIAN/control"
  printf '[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n' \
    >"$made/usr/lib/systemd/system/$name.service"
  printf '#!/bin/sh\nset -e\ndeb-systemd-helper enable %s.service\nsystemctl daemon-reload\n' "$name" \
    >"$made/DEBIAN/postinst"
  printf 'deb-systemd-invoke start %s.service\n' "$name" >>"$made/DEBIAN/postinst"
  chmod 755 "$made" "$made/DEBIAN/postinst"
  dpkg-deb --root-owner-group -b "$made" "$made.deb" >/dev/null
  dpkg -i "$made.deb"
done
"""
POLICY = "#!/bin/sh\\n# of the administrator\\nexit 0\\n"
DEMO = ("iperf3",)  # packages of the demo that the root file system lacks


def state(node: Node, package: str) -> tuple[str, str]:
    """Return whether the package's service runs, and whether it is enabled at boot."""
    return (
        node.attempt("systemctl", "is-active", f"{package}.service").stdout.strip(),
        node.attempt("systemctl", "is-enabled", f"{package}.service").stdout.strip(),
    )


def test_no_service_is_started(nodes: tuple[Node, Node]) -> None:
    """`make demo` on a machine with systemd started an etcd on port 2379, then and after each boot.

    A package installed manually shows that the fake services are normally started. The machine's own policy-rc.d is
    restored afterwards.
    """
    node = nodes[1]
    for name, text in (("apt-get", APT), ("packages.sh", (ROOT / "tools" / "packages.sh").read_text())):
        (node.etc / name).write_text(text)
        (node.etc / name).chmod(0o755)
    node.run("sh", "-c", f"printf '{POLICY}' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d")
    node.run("/etc/vxland/apt-get", "install", "by-hand")
    assert state(node, "by-hand") == ("active", "enabled")
    path = "PATH=/etc/vxland:/usr/sbin:/usr/bin:/sbin:/bin"
    node.run("env", path, "/etc/vxland/packages.sh", "demo")
    for package in DEMO:
        assert state(node, package) == ("inactive", "disabled")
    assert node.run("cat", "/usr/sbin/policy-rc.d") == POLICY.replace("\\n", "\n")
    assert node.run("sh", "-c", "ls /usr/sbin/policy-rc.d*").split() == ["/usr/sbin/policy-rc.d"]
    assert state(node, "by-hand") == ("active", "enabled")
    node.run("systemctl", "disable", "--now", "by-hand.service")
    node.run("rm", "/usr/sbin/policy-rc.d", "/etc/vxland/apt-get", "/etc/vxland/packages.sh")
