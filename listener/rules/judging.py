"""One rule on one change: the messages it makes, or the reason why it makes none. Everything here is pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from listener import phones
from listener.errors import RenderError
from listener.model import Change, Mode, Op, State
from listener.rules.approved import is_approved
from listener.rules.conditions import Condition, Moves
from listener.rules.quiet import after_quiet, next_quiet
from listener.rules.schema import Accents, Priority, Rule
from listener.templates import Expression, Missing, Row, Text
from listener.text import PartTable, clean, count, unaccent

# CareSoft's limit for `content`, in characters after NFC (docs.caresoft.vn, "Tin nhắn SMS")
MAX_CHARACTERS = 1000
# a thread's name is an index key; longer ones keep their start and a digest
_MAX_THREAD = 200
_PRIORITIES = {Priority.URGENT: 0, Priority.NORMAL: 1, Priority.BULK: 2}

Found = Mapping[str, Row | Missing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A message that a rule makes of a change, in the state in which it begins its life, and why if that is the end."""

    rule: str
    account: str
    thread: str
    state: State
    reason: str | None = None
    phone: str | None = None
    # the row holds an old 11-digit number, of which this is the new form
    migrated: bool = False
    text: str | None = None
    parts: int | None = None
    encoding: str | None = None
    priority: int = 1
    ticket: int | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    if_unsure: str = "hold"
    max_block: timedelta = timedelta(minutes=10)
    # the next quiet hours after `due_at`: a message that is late must not be sent in them
    quiet_at: datetime | None = None
    quiet_until: datetime | None = None
    # of a rule with `recheck`: the values that must still stand in the row when the message is late
    recheck: Mapping[str, Any] | None = None
    # what a newer change of the same thing is compared with, while this waits
    group: "Group | None" = None
    # the row's values for the parameters of `ticket.save`
    save: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Changes of one thing that become one message (`coalesce`): the row and the time at which they began."""

    old: Mapping[str, Any] | None
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule says to one change: messages, or the reason why there are none.

    With a rule that coalesces, `group` is what its messages go on with, and `replaces` says that whatever waits of
    the group so far gives way to this verdict.
    """

    rule: str
    messages: tuple[Planned, ...] = ()
    reason: str | None = None
    group: Group | None = None
    replaces: bool = False


class Silence(dict[str, Verdict]):
    """What most verdicts are: that a rule has nothing to say. By its few reasons for that, each made once."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, reason: str) -> Verdict:
        verdict = self[reason] = Verdict(rule=self._rule, reason=reason)
        return verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """A rule with its expressions and text compiled in its time zone."""

    rule: Rule
    silence: Silence
    zone: ZoneInfo
    parts: PartTable
    to: tuple[Expression, ...]
    text: Text
    changes: tuple[Condition, ...] = ()
    when: Expression | None = None
    ticket_id: Expression | None = None
    thread: Expression | None = None
    save_parameters: tuple[str, ...] = ()
    # the columns by which a row is back to where it began
    watched: tuple[str, ...] = ()
    # what a watch by the clock found is no row that could be read again
    rechecks: bool = False
    # the columns by which each lookup finds its row
    found_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def told(self) -> frozenset[str] | None:
        """The columns of the new row that decide whether a message is made, who gets it and what it says; None when
        the row is used whole."""
        pieces = [piece for piece in (self.when, *self.to, self.text) if piece is not None]
        names: frozenset[tuple[str, ...]] = frozenset().union(*(piece.names for piece in pieces))
        if ("new",) in names:
            return None
        looked_up = {column for name in names for column in self.found_by.get(name[0], ())}
        return frozenset(self.watched) | looked_up | {name[1] for name in names if name[0] == "new"}

    @property
    def names(self) -> frozenset[tuple[str, ...]]:
        """Every dotted name that the rule reads."""
        return frozenset().union(*(piece.names for piece in self.pieces.values()))

    @property
    def pieces(self) -> dict[tuple[str | int, ...], Text | Expression]:
        """All that is worked out for a change, by its place in the rule."""
        found: dict[tuple[str | int, ...], Text | Expression | None] = {
            ("when",): self.when,
            **{("to", index): expression for index, expression in enumerate(self.to)},
            ("text",): self.text,
            ("ticket", "id"): self.ticket_id,
            ("ticket", "thread"): self.thread,
        }
        return {place: piece for place, piece in found.items() if piece is not None}


def judge(
    compiled: CompiledRule,
    change: Change,
    moves: Moves,
    names: Mapping[str, Any],
    now: datetime,
    mode: Mode,
    *,
    old_known: bool = True,
) -> Verdict:
    """One rule on one change; `moves` are what happened to its columns."""
    rule = compiled.rule
    thread: str | None = None
    try:
        for condition in compiled.changes:
            if why := condition.refusal(moves, old_known=old_known):
                return compiled.silence[why]
        if compiled.when is not None and not compiled.when.evaluate(names):
            return compiled.silence[f"`when` is not true: {rule.when}"]
        if compiled.thread is not None:
            thread = _thread_name(compiled.thread.evaluate(names))
        plan = _Plan(compiled, change, names, now, mode, _short(thread or change.thread))
        return Verdict(rule=rule.name, messages=plan.messages())
    except RenderError as error:
        return Verdict(rule=rule.name, messages=(_rejected(rule, _short(thread or change.thread), str(error)),))


def judge_joined(
    compiled: CompiledRule,
    change: Change,
    moves: Moves,
    names: Mapping[str, Any],
    now: datetime,
    mode: Mode,
    group: Group | None,
    *,
    old_known: bool = True,
) -> Verdict:
    """A rule that coalesces judges the net change since its group began; back to where it began is silence."""
    coalesce = compiled.rule.coalesce
    assert coalesce is not None
    if group is not None:
        if _back_again(group.old, change.new, compiled.watched):
            return Verdict(rule=compiled.rule.name, reason="back to where it began: nothing to tell", replaces=True)
        change = replace(change, old=group.old, op=Op.UPDATE if group.old is not None else Op.INSERT)
        moves = Moves(change)
        names = {**names, "old": Row(group.old, "old") if group.old is not None else None, "op": change.op.value}
    verdict = judge(compiled, change, moves, names, now, mode, old_known=old_known)
    begun = group or Group(old=change.old, since=change.at)
    wait_until = min(now + coalesce.wait, max(begun.since, now - coalesce.max_wait) + coalesce.max_wait)
    messages = tuple(
        replace(_not_before(m, wait_until, compiled), group=begun) if m.state is State.WAITING else m
        for m in verdict.messages
    )
    return replace(verdict, messages=messages, group=begun if messages else None, replaces=group is not None)


def _not_before(message: Planned, moment: datetime, compiled: CompiledRule) -> Planned:
    """Due at `moment` at the soonest. The quiet hours that this may come into do not make it older."""
    assert message.due_at is not None and message.expires_at is not None
    soonest = max(moment, message.due_at)
    due_at = after_quiet(soonest, compiled.rule.quiet_hours, compiled.zone)
    return replace(message, due_at=due_at, expires_at=message.expires_at + (due_at - soonest))


def _back_again(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, columns: tuple[str, ...]) -> bool:
    if old is None or new is None:
        return old is new
    return all(old.get(column) == new.get(column) for column in columns)


class _Plan:
    """The messages of one rule that applies."""

    def __init__(
        self, compiled: CompiledRule, change: Change, names: Mapping[str, Any], now: datetime, mode: Mode, thread: str
    ) -> None:
        self.compiled = compiled
        self.rule = compiled.rule
        self.change = change
        self.names = names
        self.now = now
        self.mode = self.rule.mode.or_more_careful(mode)
        self.thread = thread

    def messages(self) -> tuple[Planned, ...]:
        text = self.compiled.text.render(self.names)
        text = unaccent(text) if self.rule.accents is Accents.STRIP else clean(text)
        size = count(text, self.compiled.parts)
        ticket = self._ticket()
        common: dict[str, Any] = {
            "rule": self.rule.name,
            "account": self.rule.account,
            "thread": self.thread,
            "text": text,
            "parts": size.parts,
            "encoding": size.encoding.value,
            "priority": _PRIORITIES[self.rule.priority],
            "ticket": ticket,
            "if_unsure": self.rule.if_unsure.value,
            "max_block": self.rule.max_block,
            "recheck": self._still_true(),
            "save": {p: self.change.row.get(p) for p in self.compiled.save_parameters} or None,
        }
        unfit = self._unfit(text, size.parts)
        planned = [self._to(recipient, unfit, common) for recipient in self._recipients()]
        # In mode redirect several recipients become one person.
        return tuple({(m.phone, m.reason): m for m in planned}.values())

    def _still_true(self) -> Mapping[str, Any] | None:
        if not self.compiled.rechecks or self.change.new is None:
            return None
        told = self.compiled.told
        return {column: self.change.new.get(column) for column in sorted(self.change.new if told is None else told)}

    def _unfit(self, text: str, parts: int) -> str | None:
        if not text.strip():
            return "the text is empty"
        if len(text) > MAX_CHARACTERS:
            return f"the text is too long: {len(text)} characters, CareSoft takes {MAX_CHARACTERS}"
        if parts > self.rule.max_parts:
            return f"the text is too long: {parts} parts, the rule allows {self.rule.max_parts}"
        if self.rule.approved and not is_approved(text, self.rule.approved):
            return "the text is none of the rule's approved wordings"
        return None

    def _ticket(self) -> int | None:
        if self.compiled.ticket_id is None:
            return None
        value = self.compiled.ticket_id.evaluate(self.names)
        if value is None or value == 0:
            return None
        if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
            value = format(value, ".0f")
        text = str(value).strip()
        if not text:
            return None
        if text.isascii() and text.isdigit() and len(text) < 19:
            return int(text) or None
        raise RenderError("ticket.id is not a whole number")

    def _recipients(self) -> list[phones.Phone | str]:
        """Who is to get it and why others cannot, nobody twice; an empty column is told of where there is no other."""
        found: dict[str, phones.Phone | str] = {}
        empty: str | None = None
        for expression in self.compiled.to:
            value = expression.evaluate(self.names)
            outcome = phones.normalise(value, migrate_old=self.rule.migrate_old)
            if isinstance(outcome, phones.Phone):
                found.setdefault(outcome.number, outcome)
            elif outcome.reason is phones.Reason.EMPTY:
                empty = phones.reason_text(outcome)
            else:
                found.setdefault(phones.reason_text(outcome), phones.refusal(value, outcome))
        return list(found.values()) or ([empty] if empty else [])

    def _to(self, recipient: phones.Phone | str, unfit: str | None, common: dict[str, Any]) -> Planned:
        if isinstance(recipient, str):
            return Planned(**common, state=State.REJECTED, reason=unfit or recipient)
        if unfit:
            return Planned(**common, phone=recipient.number, state=State.REJECTED, reason=unfit)
        return self._on_its_way(recipient.number, common | {"migrated": recipient.migrated})

    def _on_its_way(self, phone: str, common: dict[str, Any]) -> Planned:
        match self.mode:
            case Mode.SHADOW:
                return Planned(**common, phone=phone, state=State.SHADOW, reason="mode shadow: shown, not sent")
            case Mode.REDIRECT if self.rule.redirect_to is None:
                return Planned(**common, phone=phone, state=State.SHADOW, reason="mode redirect without `redirect_to`")
            case Mode.REDIRECT:
                target = phones.normalise(self.rule.redirect_to)
                phone = target.number if isinstance(target, phones.Phone) else phone
            case Mode.ALLOWLIST if not gets_any(self.rule, phone, self.mode):
                return Planned(**common, phone=phone, state=State.SUPPRESSED, reason="mode allowlist: not on the list")
        quiet = self.rule.quiet_hours
        meant_for = after_quiet(self.change.at, quiet, self.compiled.zone)
        soonest = max(self.change.at, self.now)
        due_at = after_quiet(soonest, quiet, self.compiled.zone)
        expires_at = meant_for + self.rule.expires
        expired = soonest >= expires_at
        quiet_at, quiet_until = next_quiet(due_at, quiet, self.compiled.zone)
        return Planned(
            **common,
            phone=phone,
            state=State.EXPIRED if expired else State.WAITING,
            reason="too old: the change is longer ago than `expires`" if expired else None,
            due_at=due_at,
            # The quiet hours do not make it older, be they those of the change or those it came into on its way here.
            expires_at=expires_at + (due_at - max(soonest, meant_for)),
            quiet_at=quiet_at,
            quiet_until=quiet_until,
        )


def gets_any(rule: Rule, phone: str, mode: Mode) -> bool:
    """Whether messages of `rule` to `phone` are sent in this mode."""
    listed: tuple[str | None, ...] = ()
    match mode:
        case Mode.LIVE:
            return True
        case Mode.ALLOWLIST:
            listed = rule.allowlist
        case Mode.REDIRECT:
            listed = (rule.redirect_to,)
    numbers = (phones.normalise(text) for text in listed)
    return phone in {n.number for n in numbers if isinstance(n, phones.Phone)}


def _rejected(rule: Rule, thread: str, reason: str) -> Planned:
    return Planned(rule=rule.name, account=rule.account, thread=thread, state=State.REJECTED, reason=reason)


def _thread_name(value: object) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise RenderError("ticket.thread gives nothing for this change")
    return text


def _short(thread: str) -> str:
    if len(thread) <= _MAX_THREAD:
        return thread
    return f"{thread[: _MAX_THREAD - 17]}#{hashlib.sha256(thread.encode()).hexdigest()[:16]}"
