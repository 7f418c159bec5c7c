"""The rate limit and the block it escalates to, as arithmetic: time comes in, nothing sleeps.

Documented: 15 calls a second and 54,000 an hour, then 429; past 20 in a row a 404 block of 15 minutes. Assumed: sliding
windows, refused calls use no quota, one admitted call ends the run of 429s, and the end of a block clears it too.
"""

from collections import deque
from enum import StrEnum

from listener.simulator.gateway.settings import BlockMode, GatewaySettings


class Verdict(StrEnum):
    """How the gate in front of every call decided."""

    ADMITTED = "admitted"
    TOO_MANY = "too_many"
    BLOCKED = "blocked"


class SlidingWindow:
    """Times within the last `seconds`, each kept while now - time < seconds; O(1) amortised."""

    __slots__ = ("_seconds", "_times", "peak")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque()
        self.peak = 0
        """Most times the window ever held."""

    def add(self, now: float) -> None:
        """Takes one more time; `now` never steps back."""
        self._times.append(now)
        self.peak = max(self.peak, self.count(now))

    def count(self, now: float) -> int:
        """How many times the window that ends at `now` holds."""
        times = self._times
        horizon = now - self._seconds
        while times and times[0] <= horizon:
            times.popleft()
        return len(times)


class Limiter:
    """The state of one domain's limit, shared by both ports and all endpoints."""

    __slots__ = ("_hour", "_second", "blocked_until", "blocks", "consecutive_refusals")

    def __init__(self) -> None:
        self._second = SlidingWindow(1.0)
        self._hour = SlidingWindow(3600.0)
        self.consecutive_refusals = 0
        self.blocked_until = 0.0
        """Seconds since the epoch; in the past when no block runs."""
        self.blocks = 0
        """Blocks begun since the last reset."""

    def is_blocked(self, now: float, settings: GatewaySettings) -> bool:
        """Whether a call at `now` meets a block; such a call prolongs it in mode `extended`."""
        if now >= self.blocked_until:
            return False
        if settings.block_mode is BlockMode.EXTENDED:
            self.blocked_until = now + settings.block_seconds
        return True

    def admit(self, now: float, settings: GatewaySettings) -> Verdict:
        """Counts a call outside a block: admitted, refused with 429, or the one that starts the block."""
        if self._over(self._second, settings.per_second, now) or self._over(self._hour, settings.per_hour, now):
            self.consecutive_refusals += 1
            if self.consecutive_refusals <= settings.refusals_before_block:
                return Verdict.TOO_MANY
            doubled = 2**self.blocks if settings.block_mode is BlockMode.DOUBLING else 1
            self.block(now, settings.block_seconds * doubled)
            return Verdict.BLOCKED
        # A window that is switched off is not fed either, so that a bench without limits keeps no times.
        if settings.per_second is not None:
            self._second.add(now)
        if settings.per_hour is not None:
            self._hour.add(now)
        self.consecutive_refusals = 0
        return Verdict.ADMITTED

    def block(self, now: float, seconds: float) -> None:
        """Starts a block of this length now; 0 seconds lifts the one that runs."""
        self.blocked_until = now + seconds
        self.consecutive_refusals = 0
        if seconds > 0:
            self.blocks += 1

    @staticmethod
    def _over(window: SlidingWindow, limit: int | None, now: float) -> bool:
        return limit is not None and window.count(now) >= limit
