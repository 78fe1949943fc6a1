"""One run of iptables or nft: its output, bounded, or an error with a remedy.

Programs run in a thread: uvloop's own subprocesses stop the loop, and with it the GIL, for 2 to 5 ms each, and its pipe
to a program that ends without reading raises. A program that was started ends by itself, even if the caller is
cancelled; each table changes whole or not at all. Nothing goes through a shell.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from dataclasses import dataclass
from typing import Final

from vxland.firewall.rules import Flavour
from vxland.model.errors import StartError

TIMEOUT_S: Final = 20.0  # programs take milliseconds, or as long as another one holds the lock
MAX_OUTPUT: Final = 32 << 20
"""Bytes of a listing that are read: 200,000 rules as iptables-save prints them."""

_OTHER: Final[dict[Flavour, Flavour]] = {"iptables": "nftables", "nftables": "iptables"}
_SHOWN: Final = 300  # characters of a complaint that an error shows


@dataclass(frozen=True, slots=True)
class Finished:
    """A program's exit code, its output, and what it printed on standard error, on one line."""

    flavour: Flavour
    command: str
    code: int
    output: str
    complaint: str

    def failure(self) -> StartError:
        """Return the error for a program that failed, with its complaint."""
        cause = f"`{self.command}` failed: {self.complaint[:_SHOWN] or f'exit code {self.code}'}"
        if os.geteuid() != 0 or "ermission denied" in self.complaint or "not permitted" in self.complaint:
            return StartError(cause, "run as root or grant CAP_NET_ADMIN and CAP_NET_RAW")
        return StartError(cause, f"fix what it reports, or choose firewall.flavour: {_OTHER[self.flavour]}")


async def run_program(flavour: Flavour, *argv: str, stdin: str | None = None, max_output: int = MAX_OUTPUT) -> Finished:
    """Run a program to its end. StartError if it cannot run, hangs, or prints more than `max_output` bytes.

    `stdin` is the script of a program that changes something; its output is not read.
    """
    command = " ".join(argv)
    try:
        if stdin is None:
            code, output, complaint = await asyncio.to_thread(_read, argv, max_output)
        else:
            code, output, complaint = await asyncio.to_thread(_write, argv, stdin.encode())
    except FileNotFoundError as exc:
        remedy = f"install the package {flavour}, or choose firewall.flavour: {_OTHER[flavour]}"
        raise StartError(f"{argv[0]} is not installed", remedy) from exc
    except OSError as exc:
        raise StartError(f"{argv[0]} cannot be started: {exc.strerror}", "run it by hand to see why") from exc
    except subprocess.TimeoutExpired as exc:
        cause = f"`{command}` did not end within {exc.timeout:.0f} s"
        raise StartError(cause, "find the process that holds the lock: fuser /run/xtables.lock") from exc
    if len(output) > max_output:
        raise StartError(f"`{command}` lists more than {max_output} bytes", "check these rules by hand")
    words = " ".join(complaint.decode(errors="replace").split())
    return Finished(flavour, command, code, output.decode(errors="replace"), words)


async def output_of(flavour: Flavour, *argv: str, stdin: str | None = None, max_output: int = MAX_OUTPUT) -> str:
    """Return the output of a program that succeeds. StartError otherwise."""
    done = await run_program(flavour, *argv, stdin=stdin, max_output=max_output)
    if done.code != 0:
        raise done.failure()
    return done.output


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}  # nft translates its complaints


def _write(argv: tuple[str, ...], script: bytes) -> tuple[int, bytes, bytes]:
    done = subprocess.run(  # noqa: S603  (programs by name, without a shell)
        argv,
        input=script,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the daemon
    )
    return done.returncode, b"", done.stderr


def _read(argv: tuple[str, ...], max_output: int) -> tuple[int, bytes, bytes]:
    """Read up to `max_output` bytes and one more, which says that there are too many."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    with subprocess.Popen(  # noqa: S603  (as above)
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    ) as process:
        timer = threading.Timer(TIMEOUT_S, expire)
        timer.start()
        try:
            output = process.stdout.read(max_output + 1) if process.stdout is not None else b""
            if len(output) > max_output:
                process.kill()
            _, complaint = process.communicate()
        finally:
            timer.cancel()
    if expired.is_set():
        raise subprocess.TimeoutExpired(argv, TIMEOUT_S)
    return process.returncode, output, complaint
