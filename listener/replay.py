"""Recorded changes through new rules, beside the rules in force: how many SMS, parts and people. Nothing is written.

Memory is bounded by the people who would get an SMS, not by the changes: those stream through a server-side cursor.
`coalesce` is played with the times at which the changes were matched. What depends on how fast messages leave
(`supersedes`, `cap`, `brake`, pauses) is left out on both sides, and every rule counts as live.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import tuple_row

from listener import overview, phones
from listener.database import Connection
from listener.errors import ListenerError, RenderError
from listener.lookups import Lookups
from listener.model import Change, Mode, Op, State
from listener.queries import load
from listener.rules import Rules
from listener.rules.conditions import Moves
from listener.rules.judging import CompiledRule, Found, Group, Planned, Verdict
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings
from listener.words import mask_phones

SQL = load("replay")
# changes looked up in one round trip, as the matcher does
BATCH = 500
# different reasons that are counted apart, and biggest receivers that are told
_REASONS = 20
_RECEIVERS = 10
# changes after which groups that nothing can join any more are forgotten
_TIDY = 20_000


# what the lookups of a watch found on the clocks of a zone, by change
_Known = dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, Found]]


@dataclass(slots=True)
class Tally:
    """What one rule makes: SMS and parts, how many to each phone, and why messages were not fit to be sent."""

    sms: int = 0
    parts: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    by_phone: Counter[int] = field(default_factory=Counter)

    def add(self, message: Planned, times: int = 1) -> None:
        if message.state is State.WAITING:
            self.sms += times
            self.parts += times * (message.parts or 0)
            self.by_phone[int(message.phone or 0)] += times
        else:
            # It may quote a value of the row.
            reason = phones.kind_of_refusal(mask_phones(message.reason or message.state.value))
            self.unfit[reason if reason in self.unfit or len(self.unfit) < _REASONS else "other reasons"] += times


@dataclass(slots=True)
class _Open:
    """What waits of a rule's group for one key: when it goes, and what was counted for it."""

    group: Group
    due_at: datetime
    messages: tuple[Planned, ...]


@dataclass(slots=True)
class Side:
    """One version of the rules on its way through the changes."""

    rules: RuleSet
    tallies: dict[str, Tally] = field(default_factory=dict)
    _open: dict[tuple[str, str], _Open] = field(default_factory=dict)

    def judge(self, change: Change, found: Found, now: datetime) -> None:
        """Counts what every rule makes of the change, at the time when it was matched."""
        coalescing = self.rules.coalescing(change.watch)
        groups = {rule: opened.group for rule in coalescing if (opened := self._group(rule, change.key, now))}
        for verdict in self.rules.verdicts(change, found, now, Mode.LIVE, groups=groups):
            if verdict.replaces:
                given_way = self._open.pop((verdict.rule, change.key))
                self._count(verdict.rule, given_way.messages, -1)
            if verdict.messages:
                self._count(verdict.rule, verdict.messages)
            if verdict.group is not None:
                self._keep(verdict, verdict.group, change.key)

    def may_answer(self, change: Change, now: datetime) -> bool:
        """Whether some rule gets as far as its `when` or text: no other change makes a message or needs a lookup."""
        moves = Moves(change)
        return any(
            self._changed(compiled, moves) or self._group(compiled.rule.name, change.key, now)
            for compiled in self.rules.by_watch.get(change.watch, ())
        )

    def tidy(self, now: datetime) -> None:
        """Forgets groups that nothing can join any more."""
        for place in [place for place, opened in self._open.items() if opened.due_at <= now]:
            del self._open[place]

    @staticmethod
    def _changed(compiled: CompiledRule, moves: Moves) -> bool:
        try:
            return all(condition.refusal(moves) is None for condition in compiled.changes)
        except RenderError:
            return True

    def _group(self, rule: str, key: str, now: datetime) -> _Open | None:
        opened = self._open.get((rule, key))
        return opened if opened is not None and opened.due_at > now else None

    def _keep(self, verdict: Verdict, group: Group, key: str) -> None:
        waiting = tuple(m for m in verdict.messages if m.state is State.WAITING)
        due = [m.due_at for m in waiting if m.due_at is not None]
        if due:
            self._open[verdict.rule, key] = _Open(group, min(due), waiting)

    def _count(self, rule: str, messages: Iterable[Planned], times: int = 1) -> None:
        tally = self.tallies.setdefault(rule, Tally())
        for message in messages:
            tally.add(message, times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a replay: `changes` went through both sides."""

    changes: int
    new: Mapping[str, Tally]
    in_force: Mapping[str, Tally]

    def shape(self) -> dict[str, Any]:
        """As `replay -o json` prints it; phones masked."""
        names = sorted({*self.new, *self.in_force})
        return {
            "changes": self.changes,
            "new": _sums(self.new.values()),
            "in_force": _sums(self.in_force.values()),
            "rules": {
                name: {
                    side: {**_sums([tally]), "reasons": dict(tally.unfit.most_common())}
                    for side, tally in (
                        ("new", self.new.get(name, Tally())),
                        ("in_force", self.in_force.get(name, Tally())),
                    )
                }
                for name in names
            },
            "receivers": self._receivers(),
        }

    def _receivers(self) -> list[dict[str, Any]]:
        """The phones that get most by the new rules, then by those in force."""
        new, old = _people(self.new.values()), _people(self.in_force.values())
        most = sorted({*new, *old}, key=lambda phone: (-new[phone], -old[phone], phone))[:_RECEIVERS]
        return [{"phone": phones.mask_phone(f"0{phone}"), "new": new[phone], "in_force": old[phone]} for phone in most]


def _people(tallies: Iterable[Tally]) -> Counter[int]:
    total: Counter[int] = Counter()
    for tally in tallies:
        total += tally.by_phone
    return total


def _sums(tallies: Iterable[Tally]) -> dict[str, int]:
    tallies = list(tallies)
    return {
        "sms": sum(t.sms for t in tallies),
        "parts": sum(t.parts for t in tallies),
        "people": len(_people(tallies)),
        "unfit": sum(t.unfit.total() for t in tallies),
    }


async def in_force(conn: Connection) -> RuleSet:
    """The rules in force. Raises `ListenerError` when there are none, or none that this program can read."""
    rules = await overview.rules_in_force(conn)
    if rules is None:
        raise ListenerError("there are no rules in force here that this version can read; start `listener run` once")
    return rules


async def replay(
    conn: Connection,
    settings: Settings,
    new: RuleSet,
    old: RuleSet,
    since: datetime,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Runs every change matched since `since` through both; `progress` is told how many of how many are done.

    Raises `ListenerError` when a lookup does not answer.
    """
    row = await (await conn.execute(SQL["total"], {"since": since})).fetchone()
    total = row["n"] if row else 0
    both, ours, theirs = sides = tuple(map(Side, _parted(new.rules.live(), old.rules.live())))
    lookups = Lookups(settings)
    done = 0
    try:
        async for changes in _batches(conn, since):
            known: _Known = {}
            for side in sides:
                await _through(side, changes, lookups, known)
                if (done + len(changes)) // _TIDY > done // _TIDY:
                    side.tidy(changes[-1][1])
            done += len(changes)
            progress(done, total)
    finally:
        await lookups.close()
    return Report(changes=done, new=both.tallies | ours.tallies, in_force=both.tallies | theirs.tallies)


async def _batches(conn: Connection, since: datetime) -> AsyncIterator[list[tuple[Change, datetime]]]:
    """Changes with the time at which they were matched."""
    async with conn.transaction(), conn.cursor("replay", row_factory=tuple_row) as cursor:
        await cursor.execute(SQL["changes"], {"since": since})
        while rows := await cursor.fetchmany(BATCH):
            yield [
                (Change(id=number, watch=watch, op=Op(op), key=key, old=old, new=new, at=at), matched_at)
                for number, watch, op, key, old, new, at, matched_at in rows
            ]


async def _through(side: Side, changes: Sequence[tuple[Change, datetime]], lookups: Lookups, known: _Known) -> None:
    """Judges a batch; `known` is what the lookups have found for it already."""
    answering = [(change, at) for change, at in changes if side.may_answer(change, at)]
    by_watch: dict[str, list[Change]] = {}
    for change, _ in answering:
        by_watch.setdefault(change.watch, []).append(change)
    found: dict[int, Found] = {}
    for name, asking in by_watch.items():
        watch = side.rules.rules.watch[name]
        if not watch.lookup:
            continue
        there = known.setdefault((side.rules.zone, tuple(watch.lookup.items())), {})
        if missing := [change for change in asking if change.id not in there]:
            results = await lookups.find(watch, missing, zone=side.rules.zone, patient=True)
            there |= {change.id: result for change, result in zip(missing, results, strict=True)}
        found |= {change.id: there[change.id] for change in asking}
    for change, matched_at in answering:
        side.judge(change, found.get(change.id, {}), matched_at)


def _parted(new: Rules, old: Rules) -> tuple[RuleSet, RuleSet, RuleSet]:
    """The rules that both have alike, those of the new ones alone, those of the old ones alone.

    What both have alike is judged once.
    """
    alike = {name for name in new.rules if _same_answers(new, old, name)}
    # Who answers first in a group depends on all of it.
    for rules in (new, old):
        torn = {rule.first_match for name, rule in rules.rules.items() if name not in alike}
        alike -= {
            name for name, rule in rules.rules.items() if rule.first_match is not None and rule.first_match in torn
        }

    def part(rules: Rules, names: Iterable[str]) -> RuleSet:
        wanted = {*names}
        return compile_rules(
            rules.model_copy(update={"rules": {name: rule for name, rule in rules.rules.items() if name in wanted}})
        )

    return part(new, alike), part(new, new.rules.keys() - alike), part(old, old.rules.keys() - alike)


def _same_answers(new: Rules, old: Rules, name: str) -> bool:
    """Whether a rule makes the same of every change in both."""
    mine, theirs = new.rules[name], old.rules.get(name)
    return (
        mine == theirs
        and new.watch.get(mine.on) == old.watch.get(mine.on)
        and new.labels == old.labels
        and new.defaults.time_zone == old.defaults.time_zone
        and new.accounts[mine.account].parts == old.accounts[mine.account].parts
    )
