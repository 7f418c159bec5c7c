"""What the service manager is told: ready, reloading, stopping, and that both halves still move.

The protocol of sd_notify(3): lines of a datagram to the socket that `NOTIFY_SOCKET` names. Where no manager listens
nothing is said.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from listener.waiting import wait_for_any

# seconds between two words where no watchdog asks for more
_PERIOD = 10.0


def tell(*lines: str) -> None:
    """Sends `lines`, such as `READY=1`; a manager that is gone or slow is not waited for."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # "@" stands for the NUL that begins an abstract name.
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        door.setblocking(False)
        door.sendto("\n".join(lines).encode(), address)


@contextmanager
def reloading() -> Iterator[None]:
    """Says that rules are being loaded again, and, however it ends, that the daemon is ready."""
    tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        yield
    finally:
        tell("READY=1")


def watchdog_seconds() -> float | None:
    """How long the manager waits for a sign of life before it ends the process; None when it does not ask for any."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None


async def keep_telling(
    stopping: asyncio.Event, turned: Callable[[], Mapping[str, float]], status: Callable[[], str]
) -> None:
    """Feeds the manager's watchdog while every loop of `turned` comes round, until `stopping`; then says that it ends.

    `turned` gives the monotonic time at which each loop last came round, in vain or not: a database that is away is no
    reason to be ended, since an answer of the gateway that is not written down yet would be lost.
    """
    limit = watchdog_seconds()
    period = _PERIOD if limit is None else min(_PERIOD, limit / 4)
    tell("READY=1", f"STATUS={status()}")
    while not stopping.is_set():
        await wait_for_any(stopping, seconds=period)
        ages = {name: time.monotonic() - at for name, at in turned().items()}
        stuck = [f"{name} hangs since {age:.0f} s" for name, age in ages.items() if limit and age > limit / 2]
        tell(f"STATUS={', '.join(stuck)}") if stuck else tell("WATCHDOG=1", f"STATUS={status()}")
    tell("STOPPING=1", "STATUS=finishing what is on its way")
