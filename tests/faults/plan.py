"""What goes wrong when, made from a seed before anything starts, so that every run can be repeated."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from listener.simulator.gateway import Action, Answer, Break, Delay, Ending, Fault, Garbage, Moment


class Deed(StrEnum):
    KILL = "kill -9"
    FREEZE = "SIGSTOP ... SIGCONT"
    TERMINATE = "pg_terminate_backend of one"
    TERMINATE_ALL = "pg_terminate_backend of all"
    CRASH = "server crash"


# how often each is chosen, and for how many seconds it lasts
_WEIGHTS = {Deed.KILL: 8, Deed.FREEZE: 5, Deed.TERMINATE: 6, Deed.TERMINATE_ALL: 2, Deed.CRASH: 1}
_LASTS = {Deed.FREEZE: (0.3, 9.0), Deed.CRASH: (0.2, 2.0)}
# seconds from one to the next, at least and at most
_PAUSE = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`at` seconds after the start; `who` chooses among what is there then; `lasts` seconds."""

    at: float
    deed: Deed
    who: int
    lasts: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.deed}  #{self.who}" + (f"  for {self.lasts:.1f} s" if self.lasts else "")


def steps(seed: int, seconds: float) -> Sequence[Step]:
    """Deeds at random distances; a run of any length has at least one crash of the server."""
    rng = random.Random(seed)
    found: list[Step] = []
    at = rng.uniform(*_PAUSE)
    while at < seconds:
        deed = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        lasts = rng.uniform(*_LASTS[deed]) if deed in _LASTS else 0.0
        found.append(Step(at=at, deed=deed, who=rng.randrange(1000), lasts=min(lasts, seconds / 3)))
        at += rng.uniform(*_PAUSE)
    if all(step.deed is not Deed.CRASH for step in found):
        found.append(Step(at=seconds * 0.6, deed=Deed.CRASH, who=0, lasts=rng.uniform(*_LASTS[Deed.CRASH])))
    return sorted(found, key=lambda step: step.at)


def gateway_faults(seed: int, share: float) -> Sequence[Fault]:
    """Faults that strike about `share` of all requests, in equal parts: accepted or not, answered or not."""
    actions: list[Action] = [
        Break(moment=Moment.BEFORE_EFFECT, ending=Ending.RESET),
        Break(moment=Moment.BEFORE_ANSWER, ending=Ending.RESET),
        Break(moment=Moment.HALF_STATUS_LINE),
        Break(moment=Moment.HALF_BODY, ending=Ending.RESET),
        Delay(seconds=3.0, after_effect=True),
        Delay(seconds=1.5),
        Answer(status=502, after_effect=True),
        Answer(status=502),
        Answer(status=200, body=b"<html>ok</html>", content_type="text/html", after_effect=True),
        Garbage(),
    ]
    return [
        Fault(action=action, probability=share / len(actions), seed=seed * 100 + number, times=None)
        for number, action in enumerate(actions)
    ]


def slow_answers(seed: int) -> Sequence[Fault]:
    """Faults that make of a gateway that answers at once one that takes from almost nothing to 1.5 s, each as often."""
    return [
        Fault(action=Delay(seconds=seconds), probability=0.2, seed=seed * 100 + 50 + number, times=None)
        for number, seconds in enumerate((0.2, 0.4, 0.9, 1.4))
    ]
