"""All rules in force, compiled, by the watch they answer.

A `RuleSet` is built whole from `Rules`; nothing in it changes afterwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from listener.model import Change, Mode
from listener.rules.conditions import Moves, compile_change
from listener.rules.judging import CompiledRule, Found, Group, Silence, Verdict, judge, judge_joined
from listener.rules.schema import Rules, Watch
from listener.rules.snippets import parameters
from listener.templates import Environment, Expression, Missing, Row
from listener.text import PartTable

_NO_GROUPS: Mapping[str, Group] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """All rules in force, by watch; `version` is the database's number for this text of the file."""

    rules: Rules
    version: int = 0
    by_watch: Mapping[str, tuple[CompiledRule, ...]] = field(default_factory=dict)

    @property
    def zone(self) -> str:
        """On whose clocks a watch's own queries run: what is today, and which day a moment falls on."""
        return self.rules.defaults.time_zone

    def watch(self, name: str) -> Watch | None:
        return self.rules.watch.get(name)

    def used_columns(self, name: str) -> frozenset[str] | None:
        """The columns of a watch that some rule, lookup or key needs; None when a rule looks at whole rows."""
        watch = self.rules.watch[name]
        used = {*watch.columns, *watch.key}
        for query in watch.lookup.values():
            used.update(parameters(query))
        for compiled in self.by_watch.get(name, ()):
            used.update(compiled.rule.change)
            used.update(p for p in compiled.save_parameters if p != "ticket_id")
            for dotted in compiled.names:
                if dotted[0] in ("old", "new"):
                    if len(dotted) == 1:
                        return None
                    used.add(dotted[1])
        return frozenset(used)

    def only(self, rule: str) -> "RuleSet":
        """The same with one rule alone, whatever `enabled` says."""
        return compile_rules(
            self.rules.model_copy(
                update={"rules": {rule: self.rules.rules[rule].model_copy(update={"enabled": True})}}
            ),
            self.version,
        )

    def coalescing(self, watch: str) -> tuple[str, ...]:
        """The rules of a watch that join changes close together."""
        return tuple(c.rule.name for c in self.by_watch.get(watch, ()) if c.rule.coalesce)

    def verdicts(
        self,
        change: Change,
        found: Found,
        now: datetime,
        mode: Mode = Mode.LIVE,
        *,
        groups: Mapping[str, Group] = _NO_GROUPS,
        old_known: bool = True,
    ) -> Iterator[Verdict]:
        """What each rule of the change's watch says, in the file's order. Never raises for what a change holds.

        `groups` are the open groups of this very key, by rule.
        With `old_known` False the row before is not known, and is taken to have been such that the rule applies.
        """
        old: Row | Missing | None = Row(change.old, "old") if change.old is not None else None
        if not old_known:
            old = Missing("the row before the change is not known here")
        names: dict[str, Any] = {
            "old": old,
            "new": Row(change.new, "new") if change.new is not None else None,
            "op": change.op.value,
            "at": change.at,
            "key": change.key,
            **found,
        }
        moves = Moves(change)
        taken: set[str] = set()
        for compiled in self.by_watch.get(change.watch, ()):
            rule = compiled.rule
            if taken and rule.first_match in taken:
                yield compiled.silence[f"an earlier rule of the group {rule.first_match} has answered"]
                continue
            if rule.coalesce is None:
                verdict = judge(compiled, change, moves, names, now, mode, old_known=old_known)
            else:
                group = groups.get(rule.name)
                verdict = judge_joined(compiled, change, moves, names, now, mode, group, old_known=old_known)
            if verdict.messages and rule.first_match is not None:
                taken.add(rule.first_match)
            yield verdict


def compile_rules(rules: Rules, version: int = 0) -> RuleSet:
    """Compiles every enabled rule. The reader has found all faults before, so this raises none that a person sees."""
    environments: dict[str, Environment] = {}
    by_watch: dict[str, list[CompiledRule]] = {}
    for rule in rules.rules.values():
        if not rule.enabled:
            continue
        if rule.time_zone not in environments:
            environments[rule.time_zone] = Environment(labels=rules.labels, zone=ZoneInfo(rule.time_zone))
        env = environments[rule.time_zone]
        table = rules.accounts[rule.account].parts
        ticket = rule.ticket

        def expression(source: str | None, env: Environment = env) -> Expression | None:
            return env.compile_expression(source) if source is not None else None

        by_watch.setdefault(rule.on, []).append(
            CompiledRule(
                rule=rule,
                silence=Silence(rule.name),
                zone=ZoneInfo(rule.time_zone),
                parts=PartTable(unaccented=table.unaccented, accented=table.accented),
                to=tuple(env.compile_expression(source) for source in rule.to),
                text=env.compile_text(rule.text),
                changes=tuple(compile_change(column, asked) for column, asked in rule.change.items()),
                when=expression(rule.when),
                ticket_id=expression(ticket.id if ticket else None),
                thread=expression(ticket.thread if ticket else None),
                save_parameters=parameters(ticket.save) if ticket and ticket.save else (),
                watched=tuple(rule.change) or rules.watch[rule.on].columns,
                rechecks=rule.recheck and rules.watch[rule.on].table is not None,
                found_by={name: parameters(query) for name, query in rules.watch[rule.on].lookup.items()},
            )
        )
    return RuleSet(rules=rules, version=version, by_watch={name: tuple(found) for name, found in by_watch.items()})
