"""What needs a person, worst first: decided from the figures alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from listener.upkeep import QUEUE

# a message that has waited for longer than this, though nothing stops it, is worth a look; seconds
SLOW = 600.0
# a change that nobody has looked at for longer than this: matching stands still, or cannot keep up; seconds
UNMATCHED = 30.0
# who pauses everything when the database may have forgotten what was sent
_BY_ITSELF = "listener"


class Level(StrEnum):
    """How bad it is: nothing goes or something is lost, something is not as it should be, worth knowing."""

    BAD = "bad"
    WARN = "warn"
    GOOD = "good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """A sentence (`text`, a key of the words, filled with `values`) and where to deal with it.

    Of `values`, `reason` is one that is kept in English, `seconds` a length of time, `at` a moment, `what` the target
    of a pause, `first` another concern.
    """

    level: Level
    text: str
    link: str
    values: Mapping[str, Any] = field(default_factory=dict)


def concerns(
    status: Mapping[str, Any],
    rejected: int,
    *,
    gaps: Sequence[str] = (),
    stuck: Mapping[str, float] = MappingProxyType({}),
) -> list[Concern]:
    """All that is not as it should be; empty when all is well.

    `status` is `overview.status` with `oldest_due_s`, `rejected` how many were in 24 hours, `gaps` what capture lacks,
    `stuck` the parts of this replica that stand still.
    """
    found: list[Concern] = []

    def add(level: Level, text: str, link: str, **values: Any) -> None:
        found.append(Concern(level=level, text=text, link=link, values=values))

    if stuck:
        add(Level.BAD, "c_stuck", "", part=", ".join(stuck), seconds=max(stuck.values()))
    elif not status["replicas"]:
        add(Level.BAD, "c_no_replica", "")
    by_person = {pause["target"]: pause for pause in status["pauses"]}
    if (everything := by_person.get("everything")) is not None:
        text = "c_unconfirmed" if unconfirmed(status) else "c_all_paused"
        add(Level.BAD, text, "/interventions", reason=everything["reason"], who=everything["who"])
    if gaps:
        add(Level.BAD, "c_gap", "#gaps", gap=gaps[0], n=len(gaps))
    for name, account in status["accounts"].items():
        if account["paused_until"] and not by_person.keys() & {"everything", f"account {name}"}:
            add(Level.BAD, "c_account", "#accounts", account=name, reason=account["reason"])
    if (waited := status["outbox_oldest_s"]) is not None and waited > UNMATCHED:
        add(Level.BAD, "c_unmatched", "", n=status["outbox"], seconds=waited)
    if new := status["capture_failures_new"]:
        add(Level.BAD, "c_capture", "#failures", n=new)
    for failing in status["failing_selects"]:
        values = {"watch": failing["watch"], "at": failing["since"], "reason": failing["reason"]}
        add(Level.BAD, "c_select", "/rules", **values)
    if not status["rules"]["ok"]:
        add(Level.BAD, "c_rules", "/rules", n=len(status["rules"]["faults"]))
    for failing in status["failing_saves"]:
        add(Level.WARN, "c_saves", "/rules", rule=failing["rule"], n=failing["n"], reason=failing["reason"])
    for brake in status["brakes"]:
        add(Level.WARN, "c_brake", "/interventions", rule=brake["rule"], n=brake["held"])
    for target in sorted(by_person.keys() - {"everything"}):
        add(Level.WARN, "c_paused", "/interventions", what=target, reason=by_person[target]["reason"])
    if unknown := status["messages"]["unknown"]:
        add(Level.WARN, "c_unknown", "/messages?state=unknown", n=unknown)
    if held := status["held_apart"]:
        add(Level.WARN, "c_held", "/messages?state=held", n=held)
    if rejected:
        add(Level.WARN, "c_rejected", "/messages?state=rejected&range=24h", n=rejected)
    if (lost := status["lost_replicas"]["n"]) and status["replicas"]:
        add(Level.WARN, "c_lost", "", n=lost, at=status["lost_replicas"]["seen_at"])
    if status["deaf"]:
        add(Level.WARN, "c_deaf", "")
    if (share := status["notify_queue"]) > QUEUE:
        add(Level.WARN, "c_notify_queue", "", percent=round(share * 100))
    if status["muted"]:
        add(Level.WARN, "c_muted", "/interventions", n=status["muted"])
    return found


def unconfirmed(status: Mapping[str, Any]) -> bool:
    """Whether nothing is sent because this may be a restored or copied database, until a person says so."""
    return any(pause["target"] == "everything" and pause["who"] == _BY_ITSELF for pause in status["pauses"])


def sentence(found: Sequence[Concern], status: Mapping[str, Any]) -> Concern:
    """Is it healthy, and if not, why: one sentence."""
    if found and found[0].level is Level.BAD:
        return found[0]
    waited = status["oldest_due_s"]
    if waited is not None and waited > SLOW:
        return Concern(level=Level.WARN, text="c_slow", link="/messages?state=waiting", values={"seconds": waited})
    if status["mode"] == "shadow":
        return Concern(level=Level.GOOD, text="c_shadow", link="/messages")
    if found:
        text = "c_works_but" if len(found) == 1 else "c_works_but_more"
        return Concern(level=Level.WARN, text=text, link="#needs", values={"first": found[0], "n": len(found) - 1})
    if not any(status["messages"].values()):
        return Concern(level=Level.GOOD, text="c_ready", link="/rules")
    return Concern(level=Level.GOOD, text="c_good", link="/messages")
