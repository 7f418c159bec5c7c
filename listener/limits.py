"""What a batch must know of earlier messages, and what it does to them; on the matcher's own transaction."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from listener.database import Connection
from listener.messages import to_json
from listener.model import Change, State
from listener.planning import Limits, OpenGroup, Plan, PlannedRow
from listener.queries import load
from listener.rules.judging import Group
from listener.rules.ruleset import RuleSet

SQL = load("planning")


async def open_groups(conn: Connection, rules: RuleSet, changes: Sequence[Change]) -> dict[tuple[str, str], OpenGroup]:
    """The groups (rule, key) that changes of this batch may join."""
    wanted = {(rule, change.key) for change in changes for rule in rules.coalescing(change.watch)}
    if not wanted:
        return {}
    args = {"rules": [rule for rule, _ in wanted], "keys": [key for _, key in wanted]}
    groups: dict[tuple[str, str], OpenGroup] = {}
    for row in await (await conn.execute(SQL["open_groups"], args)).fetchall():
        begun = Group(old=row["joins"]["old"], since=datetime.fromisoformat(row["joins"]["since"]))
        group = groups.setdefault((row["rule"], row["key"]), OpenGroup(begun))
        group.ids.append(row["id"])
        group.threads.add((row["account"], row["thread"]))
    return groups


async def read(conn: Connection, rules: RuleSet, plan: Plan, *, suppression: bool) -> Limits:
    """Counts and lists for the messages of `plan`, as far as needed. `suppression`: somebody is on that list."""
    waiting = [row.message for row in plan.rows if row.state is State.WAITING and row.message.phone]
    if not waiting:
        return Limits()
    phones = sorted({m.phone for m in waiting if m.phone})
    suppressed: frozenset[str] = frozenset()
    if suppression:
        rows = await (await conn.execute(SQL["suppressed"], {"phones": phones})).fetchall()
        suppressed = frozenset(row["phone"] for row in rows)
    caps = {(m.rule, m.phone): cap for m in waiting if (cap := rules.rules.rules[m.rule].cap)}
    sent_to: dict[tuple[str, str], int] = {}
    if caps:
        args: dict[str, Any] = {
            "rules": [rule for rule, _ in caps],
            "phones": [phone for _, phone in caps],
            "seconds": [cap.per.total_seconds() for cap in caps.values()],
            "replaced": list(plan.replaced),
        }
        rows = await (await conn.execute(SQL["sent_to"], args)).fetchall()
        sent_to = {(row["rule"], row["phone"]): row["n"] for row in rows}
    brakes = {m.rule: brake for m in waiting if (brake := rules.rules.rules[m.rule].brake)}
    made: dict[str, int] = {}
    held: frozenset[str] = frozenset()
    if brakes:
        args = {"rules": list(brakes), "seconds": [brake.per.total_seconds() for brake in brakes.values()]}
        rows = await (await conn.execute(SQL["braked"], args)).fetchall()
        made = {row["rule"]: int(row["n"]) for row in rows}
        held = frozenset(row["rule"] for row in rows if row["held"])
    return Limits(sent_to=sent_to, made=made, held=held, suppressed=suppressed)


async def replace(conn: Connection, replaced: Mapping[int, str]) -> int:
    """Ends messages that give way; returns how many did."""
    gone = await conn.execute(SQL["replace"], {"ids": list(replaced), "reasons": list(replaced.values())})
    return len(await gone.fetchall())


async def supersede(conn: Connection, rows: Iterable[PlannedRow]) -> None:
    """Ends unsent messages of the rules that new ones supersede."""
    by = [
        {
            "account": row.message.account,
            "thread": row.message.thread,
            "by": row.message.rule,
            "change_id": row.change.id,
            "rules": row.supersedes,
        }
        for row in rows
        if row.supersedes
    ]
    if by:
        await conn.execute(SQL["supersede"], {"rows": to_json(by)})


async def count(conn: Connection, made: Mapping[str, int]) -> None:
    """Adds to the minute's count of rules that have a brake."""
    if made:
        await conn.execute(SQL["count_minute"], {"rules": list(made), "counts": list(made.values())})


async def pull_brake(conn: Connection, braked: Mapping[str, str]) -> None:
    await conn.execute(SQL["pull_brake"], {"rules": list(braked), "reasons": list(braked.values())})
