"""What needs a person, worst first: decided from the figures alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# a message that has waited for longer than this, though nothing stops it, is worth a look; seconds
SLOW = 600.0


class Level(StrEnum):
    """How bad it is: nothing goes, something is not as it should be, worth knowing."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """A sentence (`text`, a key of the words, filled with `values`) and where to deal with it."""

    level: Level
    text: str
    link: str
    values: Mapping[str, Any] = field(default_factory=dict)


def concerns(status: Mapping[str, Any], brakes: Sequence[Mapping[str, Any]], rejected: int) -> list[Concern]:
    """All that is not as it should be; empty when all is well.

    `status` is `overview.status` with `oldest_due_s`, `rejected` how many were in 24 hours.
    """
    found: list[Concern] = []

    def add(level: Level, text: str, link: str, **values: Any) -> None:
        found.append(Concern(level=level, text=text, link=link, values=values))

    if not status["replicas"]:
        add(Level.BAD, "c_no_replica", "/")
    by_person = {pause["target"] for pause in status["pauses"]}
    if "everything" in by_person:
        add(Level.BAD, "c_all_paused", "/interventions")
    for name, account in status["accounts"].items():
        if account["paused_until"] and not by_person & {"everything", f"account {name}"}:
            add(Level.BAD, "c_account", "/interventions", account=name, reason=account["reason"])
    if status["capture_failures"]:
        add(Level.BAD, "c_capture", "/", n=status["capture_failures"])
    if not status["rules"]["ok"]:
        add(Level.BAD, "c_rules", "/rules", n=len(status["rules"]["faults"]))
    for brake in brakes:
        add(Level.WARN, "c_brake", "/interventions", rule=brake["rule"])
    paused = sorted(by_person - {"everything"})
    if paused:
        add(Level.WARN, "c_paused", "/interventions", what=", ".join(paused))
    if unknown := status["messages"]["unknown"]:
        add(Level.WARN, "c_unknown", "/messages?state=unknown", n=unknown)
    if held := status["messages"]["held"]:
        add(Level.WARN, "c_held", "/messages?state=held", n=held)
    if rejected:
        add(Level.WARN, "c_rejected", "/messages?state=rejected&range=24h", n=rejected)
    if status["muted"]:
        add(Level.WARN, "c_muted", "/", n=status["muted"])
    return found


def sentence(found: Sequence[Concern], status: Mapping[str, Any]) -> Concern:
    """Is it healthy, and if not, why: one sentence."""
    if found and found[0].level is Level.BAD:
        return found[0]
    waited = status["oldest_due_s"]
    if waited is not None and waited > SLOW:
        return Concern(
            level=Level.WARN, text="c_slow", link="/messages?state=waiting", values={"minutes": int(waited // 60)}
        )
    if status["mode"] == "shadow":
        return Concern(level=Level.GOOD, text="c_shadow", link="/messages")
    if found:
        return Concern(level=Level.WARN, text="c_works_but", link="#needs", values={"n": len(found)})
    return Concern(level=Level.GOOD, text="c_good", link="/messages")
