"""The process that outlives us just long enough to clean up: both ends of it.

A server started for a demo or a test must be gone when its owner is, even after ``kill -9``. So its programs are
children of a small process in a session of its own, which holds a pipe from the owner: at end of file it stops what
runs and removes the folder. It runs by path (``python -I -S watchdog.py``), so nothing but the standard library is
imported and nothing of a threaded owner is forked.

The wire, a line each: in ``{"run": [ARGUMENTS]}`` or ``{"signal": NUMBER}``; out ``ready PID``, ``started PID`` and
``exited STATUS``. At most one program runs at a time.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

# PostgreSQL kills its own stragglers 5 s after SIGQUIT; past that the postmaster itself is stuck.
GRACE = 10.0
PARENT_CHECK = 1.0


class Account(NamedTuple):
    """The user and group that programs run as."""

    uid: int
    gid: int


class Watchdog:
    """Our end: creates the folder, runs programs in it, and is closed once."""

    def __init__(self, folder: str, account: Account | None) -> None:
        """Make ``folder`` (which must not exist) and its ``data`` and ``run``, owned by ``account`` if one is given.

        Raises OSError when that fails.
        """
        arguments = [sys.executable, "-I", "-S", __file__, folder, str(os.getpid())]
        self._process = subprocess.Popen(
            arguments if account is None else [*arguments, str(account.uid), str(account.gid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",  # the account may not be allowed to stand where we do
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"},
            start_new_session=True,
        )
        self._folder = folder
        self._unread = b""
        try:
            self._expect("ready", 30)
        except OSError:
            self.close()
            raise

    def run(self, *arguments: str) -> int:
        """Start a program and return its process id. Its output is appended to ``log`` in the folder."""
        self._send({"run": arguments})
        return self._expect("started", 30)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the running program; nothing happens if it has ended."""
        self._send({"signal": number})

    def exited(self, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for the program's end: its status (negative: the signal), None if it runs."""
        line = self._line(timeout)
        return None if line is None else self._number("exited", line)

    def close(self) -> None:
        """End everything and return when the folder is gone. May be called again."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        # Only if the watchdog itself was killed is anything left; a postmaster without its folder ends within a minute.
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _expect(self, word: str, timeout: float) -> int:
        line = self._line(timeout)
        if line is None:
            raise TimeoutError(f"its watchdog did not answer within {timeout:g} s")
        return self._number(word, line)

    def _number(self, word: str, line: str) -> int:
        said, _, number = line.partition(" ")
        if said != word:
            raise OSError(f"its watchdog said: {line}{self._unread.decode()}")
        return int(number)

    def _line(self, timeout: float) -> str | None:
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        while b"\n" not in self._unread:
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            chunk = self._process.stdout.read(65536)
            if not chunk:
                raise OSError(f"its watchdog died: {self._unread.decode()}")
            self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()


def _say(word: str, number: int) -> None:
    with contextlib.suppress(OSError):  # the owner is gone: the loop is about to notice
        os.write(1, f"{word} {number}\n".encode())


def _messages(parent: int) -> Iterator[dict[str, object]]:
    """What the owner asks for, until it is gone.

    A copy of the pipe in some forked child of the owner would keep end of file from coming, hence the second look.
    """
    unread = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], PARENT_CHECK)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, unread = (unread + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _start(folder: str, account: Account | None, arguments: list[str]) -> "subprocess.Popen[bytes]":
    with open(os.path.join(folder, "log"), "ab") as log:  # noqa: PTH118, PTH123  pathlib would double the start-up time
        program = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            user=account and account.uid,
            group=account and account.gid,
            extra_groups=None if account is None else [],
        )
    _say("started", program.pid)
    threading.Thread(target=lambda: _say("exited", program.wait()), daemon=True).start()
    return program


def _end(program: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGQUIT, signal.SIGCONT):  # a frozen postmaster hears nothing until it is woken
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, number)
    try:
        program.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def _give(folder: str, account: Account | None) -> None:
    """The account owns ``data`` and ``run`` and may only pass through the folder, so it cannot plant links for root."""
    os.mkdir(folder, 0o700)  # noqa: PTH102
    for name in ("data", "run"):
        path = os.path.join(folder, name)  # noqa: PTH118
        os.mkdir(path, 0o700)  # noqa: PTH102
        if account is not None:
            os.chown(path, account.uid, account.gid)
    if account is not None:
        os.chown(folder, -1, account.gid)
        os.chmod(folder, 0o710)  # noqa: PTH101, S103


def _main(folder: str, parent: int, account: Account | None) -> None:
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in stopping:
        signal.signal(number, lambda *_: sys.exit(0))
    program: subprocess.Popen[bytes] | None = None
    _give(folder, account)
    try:
        _say("ready", os.getpid())
        for message in _messages(parent):
            match message:
                case {"run": list(arguments)}:
                    program = _start(folder, account, arguments)
                case {"signal": int(wanted)} if program is not None:
                    program.send_signal(wanted)
    finally:
        for number in stopping:
            signal.signal(number, signal.SIG_IGN)
        if program is not None and program.poll() is None:
            _end(program)
        until = time.monotonic() + GRACE
        while os.path.exists(folder) and time.monotonic() < until:  # noqa: PTH110
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Account(*map(int, sys.argv[3:])) if sys.argv[3:] else None)
