"""Is every part of the daemon moving? Answered from what this process knows, without asking anybody.

A part is a long-lived task, and moves when it finishes a turn that did its work: a database that does not answer stops
the matcher and upkeep, and shows in them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

# A part that has not moved for so many seconds is not well. The slowest regular turn is a second; a statement that
# hangs is cut off after 15, in the matcher after 30.
STALE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`moved` gives the monotonic time at which each part last moved, `notes` what is worth knowing and no fault;
    `ready` whether the daemon has begun its work and was not told to stop."""

    moved: Callable[[], Mapping[str, float]]
    notes: Callable[[], Mapping[str, Any]]
    ready: Callable[[], bool]

    def stuck(self) -> dict[str, float]:
        """The parts that are not well, and for how many seconds they have not moved."""
        now = monotonic()
        return {name: now - at for name, at in self.moved().items() if now - at > STALE}

    def report(self) -> dict[str, Any]:
        """`{ok, reasons, moved_s, ...notes}`; names of parts and accounts, no personal data."""
        now = monotonic()
        ages = {name: max(0.0, now - at) for name, at in self.moved().items()}
        reasons = [f"{name} has not moved for {age:.0f} s" for name, age in self.stuck().items()]
        if not ages:
            reasons.append("starting")
        return {
            "ok": not reasons,
            "reasons": reasons,
            "moved_s": {name: round(age, 1) for name, age in ages.items()},
            **self.notes(),
        }

    def readiness(self) -> dict[str, Any]:
        """`{ok, reasons}`: healthy, begun, and not stopping."""
        reasons = list(self.report()["reasons"])
        if not self.ready():
            reasons.append("not started yet, or stopping")
        return {"ok": not reasons, "reasons": reasons}
