"""A replay that a page asked for: on a thread and a loop of its own, with its progress told, until it is cancelled.

One at a time in a process, since it takes a core. Whoever closes the window has cancelled it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from time import monotonic
from typing import Any

import structlog

from listener.errors import ListenerError, describe

log = structlog.get_logger()

# seconds after which nobody is taken to be waiting for it any more, and in which it must be done: all the while it
# keeps PostgreSQL from clearing away dead rows
_FORSAKEN = 30.0
_LONGEST = 1800.0

Work = Callable[[Callable[[int, int], None]], Awaitable[Any]]
"""What is to be done; it tells how many of how many changes are done."""


@dataclass(slots=True, eq=False)
class Replay:
    """One, of `rule`; `result` once it is done, `fault` why it will not be: a `ListenerError` or the key of a word."""

    rule: str
    number: str = field(default_factory=lambda: token_hex(8))
    done: int = 0
    total: int = 0
    result: Any = None
    fault: ListenerError | str | None = None
    asked_at: float = field(default_factory=monotonic)
    thread: "asyncio.Task[None] | None" = None
    _loop: asyncio.AbstractEventLoop | None = None
    _working: "asyncio.Task[None] | None" = None
    _cancelled: bool = False

    @property
    def over(self) -> bool:
        return self.result is not None or self.fault is not None

    def cancel(self) -> None:
        """Ends it soon; from whichever thread."""
        self._cancelled = True
        if self._loop is not None and self._working is not None:
            # It may be over this very moment, and its loop with it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._working.cancel)

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if monotonic() - self.asked_at > _FORSAKEN:
            self.cancel()

    def work(self, work: Work) -> None:
        """Does it, on this thread."""
        asyncio.run(self._work(work))

    async def _work(self, work: Work) -> None:
        self._loop, self._working = asyncio.get_running_loop(), asyncio.current_task()
        try:
            if self._cancelled:
                raise asyncio.CancelledError
            async with asyncio.timeout(_LONGEST):
                self.result = await work(self._progress)
        except asyncio.CancelledError:
            self.fault = "replay_cancelled"
        except TimeoutError:
            self.fault = "replay_too_long"
        except ListenerError as error:
            self.fault = error
        except Exception as error:
            log.error("replay_failed", error=describe(error))
            self.fault = "replay_failed"


class Replays:
    """The replay of this process that runs, or ran last."""

    def __init__(self) -> None:
        self._last: Replay | None = None

    def start(self, rule: str, work: Work) -> Replay:
        """Starts one, or returns the one that still runs."""
        if self._last is not None and not self._last.over:
            return self._last
        self._last = started = Replay(rule=rule)
        started.thread = asyncio.create_task(asyncio.to_thread(started.work, work), name="page replay")
        return started

    def find(self, number: str) -> Replay | None:
        """The one of that number, whose asker is still there; None when there is none any more."""
        if self._last is None or self._last.number != number:
            return None
        self._last.asked_at = monotonic()
        return self._last

    async def close(self, _app: object) -> None:
        """For `on_shutdown`."""
        if self._last is not None and self._last.thread is not None:
            self._last.cancel()
            await asyncio.wait([self._last.thread])
