"""`listener run` with a hook in it, for faults that come from inside a process.

    python -m tests.support.sabotage

`SABOTAGE` says which hooks, each as `name=value`, separated by commas. `kill=TASK` ends that task when SIGUSR1 comes
(it says when it is ready), `how=raise|cancel|return`. `gc=1` collects garbage all the time, on a thread. `dns=SECONDS`
takes so long to not find `localhost`, until SIGUSR1 comes. `lag=FILE` writes down at the end how late the event
loop was, in seconds, one number a line.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from listener import service
from listener.cli import main
from listener.tasks import TaskTree

_TICK = 0.01


def kill(victim: str, how: str) -> None:
    """The task whose name begins with `victim` dies when SIGUSR1 comes."""
    struck = asyncio.Event()
    keep, start = TaskTree.keep, TaskTree.start

    async def doomed(work: Coroutine[Any, Any, Any]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, struck.set)
        print("sabotage is ready", file=sys.stderr, flush=True)
        inner = asyncio.ensure_future(work)
        blow = asyncio.ensure_future(struck.wait())
        try:
            await asyncio.wait([inner, blow], return_when=asyncio.FIRST_COMPLETED)
            if not struck.is_set():
                return
            match how:
                case "raise":
                    raise RuntimeError("sabotage")
                case "cancel":
                    raise asyncio.CancelledError
        finally:
            blow.cancel()
            inner.cancel()

    def kept(self: TaskTree, work: Coroutine[Any, Any, None], name: str) -> Any:
        return keep(self, doomed(work) if name == victim else work, name)

    def started(self: TaskTree, work: Coroutine[Any, Any, Any], name: str) -> Any:
        return start(self, doomed(work) if victim == "send" and name.startswith(victim) else work, name)

    TaskTree.keep, TaskTree.start = kept, started  # type: ignore[method-assign,assignment]


def collect() -> None:
    """Whatever nobody holds on to is gone at once."""

    def forever() -> None:
        while True:
            gc.collect()
            time.sleep(_TICK)

    threading.Thread(target=forever, daemon=True).start()


def slow_names(seconds: float) -> None:
    """A resolver that answers late, and that there is no such name; SIGUSR1 mends it. uvloop has one of its own."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    mended = threading.Event()
    resolve = socket.getaddrinfo

    def late(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "localhost" or mended.is_set():
            return resolve(host, *args, **kwargs)
        mended.wait(seconds)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    socket.getaddrinfo = late
    signal.signal(signal.SIGUSR1, lambda *_: mended.set())


def measure(file: str) -> None:
    """How much later than asked for the loop comes back, all the time that the daemon runs."""
    run = service.Service.run

    async def measured(self: service.Service, *, once: bool = False) -> int:
        late: list[float] = []

        async def sample() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(_TICK)
                late.append(time.monotonic() - before - _TICK)

        sampling = asyncio.ensure_future(sample())
        try:
            return await run(self, once=once)
        finally:
            sampling.cancel()
            Path(file).write_text("\n".join(map(str, late)))  # noqa: ASYNC240

    service.Service.run = measured  # type: ignore[method-assign]


if __name__ == "__main__":
    hooks = dict(hook.split("=", 1) for hook in os.environ["SABOTAGE"].split(","))
    if "kill" in hooks:
        kill(hooks["kill"], hooks["how"])
    if "gc" in hooks:
        collect()
    if "dns" in hooks:
        slow_names(float(hooks["dns"]))
    if "lag" in hooks:
        measure(hooks["lag"])
    main(["run"])
