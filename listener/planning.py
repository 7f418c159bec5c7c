"""A batch of changes to the rows that its transaction writes: verdicts, then what earlier messages make of them.

Pure but for `Limits`, which are read before they are applied: what replaces what (`coalesce`), and how many are too
many (`cap`, `brake`, the suppression list).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from listener.messages import LATE
from listener.model import Change, Mode, State
from listener.rules.judging import Found, Group, Planned, Verdict
from listener.rules.ruleset import RuleSet

_ALIVE = frozenset({State.WAITING, State.HELD})


@dataclass(slots=True)
class OpenGroup:
    """What waits of a rule's group for one key: rows of the database, or messages planned in this very batch."""

    group: Group
    ids: list[int] = field(default_factory=list)
    threads: set[tuple[str, str]] = field(default_factory=set)
    planned: "list[PlannedRow]" = field(default_factory=list)


@dataclass(slots=True)
class PlannedRow:
    """A message of this batch on its way to the table; limits may still change its state."""

    change: Change
    message: Planned
    state: State
    reason: str | None
    supersedes: tuple[str, ...] = ()
    # when the change was made, where its row is to be read again because that is long ago
    made_at: datetime | None = None


@dataclass(slots=True)
class Plan:
    """All that a batch writes, in the order of its changes."""

    rows: list[PlannedRow] = field(default_factory=list)
    verdicts: list[list[Verdict]] = field(default_factory=list)
    # messages of the database that give way, each with the reason, how many of each rule, and their (account, thread)
    replaced: dict[int, str] = field(default_factory=dict)
    given_way: Counter[str] = field(default_factory=Counter)
    touched: set[tuple[str, str]] = field(default_factory=set)
    braked: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> list[PlannedRow]:
        return [row for row in self.rows if row.state in _ALIVE]

    def made(self) -> Counter[str]:
        """How many messages of each rule there are more than before: what is joined again and again is one."""
        made = Counter(row.message.rule for row in self.alive)
        made.subtract(self.given_way)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the database knows: messages so far by (rule, phone) and by rule, brakes that hold, phones on the list."""

    sent_to: Mapping[tuple[str, str], int] = field(default_factory=dict)
    made: Mapping[str, int] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    suppressed: frozenset[str] = frozenset()


def judge(
    result: Plan,
    rules: RuleSet,
    change: Change,
    facts: Found,
    groups: dict[tuple[str, str], OpenGroup],
    now: datetime,
    mode: Mode,
) -> None:
    """Adds what the next change makes; `groups` are the open ones by (rule, key) and move on with each change."""
    mine: dict[str, Group] = {}
    # mostly nothing waits to be joined
    if groups:
        places = ((rule, change.key) for rule in rules.coalescing(change.watch))
        mine = {place[0]: groups[place].group for place in places if place in groups}
    verdicts = list(rules.verdicts(change, facts, now, mode, groups=mine))
    late = (now - change.at).total_seconds() > LATE
    result.verdicts.append(verdicts)
    for verdict in verdicts:
        if not verdict.messages and not verdict.replaces:
            continue
        supersedes = rules.rules.rules[verdict.rule].supersedes
        rows = [
            PlannedRow(change, m, m.state, m.reason, supersedes, change.at if m.recheck is not None and late else None)
            for m in verdict.messages
        ]
        result.rows += rows
        place = (verdict.rule, change.key)
        if verdict.replaces:
            result.given_way[verdict.rule] += len(groups[place].ids)
            _give_way(result, groups.pop(place), verdict.reason or "joined with a newer change")
        if verdict.group is not None:
            groups[place] = OpenGroup(verdict.group, planned=[r for r in rows if r.state is State.WAITING])


def _give_way(result: Plan, open_group: OpenGroup, reason: str) -> None:
    result.replaced |= dict.fromkeys(open_group.ids, reason)
    result.touched |= open_group.threads
    for row in open_group.planned:
        row.state, row.reason = State.SUPERSEDED, reason


def apply_limits(rules: RuleSet, result: Plan, limits: Limits) -> None:
    """Suppression, then caps, then brakes, each message in the order of its change."""
    to_phone: Counter[tuple[str, str]] = Counter(limits.sent_to)
    made: Counter[str] = Counter(limits.made)
    made.subtract(result.given_way)
    for row in result.rows:
        if row.state is not State.WAITING:
            continue
        rule = rules.rules.rules[row.message.rule]
        phone = row.message.phone or ""
        if phone in limits.suppressed:
            row.state, row.reason = State.SUPPRESSED, "the phone is on the suppression list"
            continue
        if rule.cap is not None:
            if to_phone[rule.name, phone] >= rule.cap.count:
                row.state, row.reason = State.SUPPRESSED, f"cap: this phone has had {rule.cap} of this rule"
                continue
            to_phone[rule.name, phone] += 1
        if rule.brake is not None:
            if rule.name in limits.held or made[rule.name] >= rule.brake.count:
                row.state, row.reason = State.HELD, f"brake: the rule made more than {rule.brake}; a person releases it"
                result.braked.setdefault(rule.name, f"more than {rule.brake}")
            made[rule.name] += 1


def goes_at_once(rules: RuleSet, plan: Plan, now: datetime) -> bool:
    """Whether a plan is nothing but messages of one account to be sent now, each in a thread of its own."""
    places = {(row.message.account, row.message.thread) for row in plan.rows}
    return (
        len({account for account, _ in places}) == 1
        and len(places) == len(plan.rows)
        and not plan.replaced
        and all(_goes_now(rules, row, now) for row in plan.rows)
    )


def _goes_now(rules: RuleSet, row: PlannedRow, now: datetime) -> bool:
    message = row.message
    return (
        row.state is State.WAITING
        # nothing is read again of what goes at once
        and row.made_at is None
        # a brake is counted, and what is superseded or joined is looked for, where messages queue
        and rules.rules.rules[message.rule].brake is None
        and not row.supersedes
        and message.group is None
        and message.due_at is not None
        and message.due_at <= now
        and (message.expires_at is None or message.expires_at > now)
        and (message.quiet_at is None or message.quiet_at > now)
    )


def message_rows(rows: Iterable[PlannedRow]) -> list[dict[str, Any]]:
    """Rows for the statements of `sql/queries/messages.sql`."""
    return [_row(place, row) for place, row in enumerate(rows)]


def _row(place: int, row: PlannedRow) -> dict[str, Any]:
    p, change = row.message, row.change
    return {
        "place": place,
        "change_id": change.id,
        "rule": p.rule,
        "watch": change.watch,
        "key": change.key,
        "account": p.account,
        "thread": p.thread,
        "priority": p.priority,
        "phone": p.phone,
        "text": p.text,
        "parts": p.parts,
        "encoding": p.encoding,
        "state": row.state,
        "reason": row.reason,
        "ticket_own": p.ticket,
        "if_unsure": p.if_unsure,
        "max_block_s": p.max_block.total_seconds(),
        "save": p.save,
        "joins": {"old": p.group.old, "since": p.group.since} if p.group is not None else None,
        "made_at": row.made_at,
        "due_at": p.due_at,
        "expires_at": p.expires_at,
        "recheck": p.recheck,
        "quiet_at": p.quiet_at,
        "quiet_until": p.quiet_until,
    }
