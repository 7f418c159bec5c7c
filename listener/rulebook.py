"""The rules in force: one version for all replicas.

The file is the truth, the database tells everybody which text of it is in force. Whoever first sees a changed file
that is good registers it; the others follow within a second, and no change is matched by any other version. A file with
faults changes nothing: the last good rules stay, also over a restart, and the faults are shown.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

import structlog

from listener import accounts, capture, migrations, notify, rights
from listener.database import LOST, Connection, Link, end_frozen
from listener.errors import Fault, ListenerError, RulesError, describe
from listener.installation import MEND, captures, install
from listener.messages import to_json
from listener.model import Mode
from listener.queries import load
from listener.rules import parse, read_text
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings
from listener.waiting import wait_for_any

log = structlog.get_logger()
SQL = load("rules")

POLL = 1.0
_INSTALL = "run `listener db install`"


class Rulebook:
    """The rule set that this replica works by; `current` is replaced whole."""

    def __init__(self, settings: Settings, link: Link, current: RuleSet, seen: str) -> None:
        self.current = current
        self.on_change: Callable[[RuleSet], None] = lambda _: None
        self._settings = settings
        # digest of the file's text when it was last looked at, good or bad
        self._seen = seen
        # as `_stamp` gave it then; None: not looked at yet
        self._stamp: tuple[int, ...] | None = None
        # as it gave it at the last look, and not before: whoever writes the file may not have done yet
        self._unsettled: tuple[int, ...] | None = None
        # good rules whose triggers are not there yet
        self._candidate: RuleSet | None = None
        # a look at a file that may have changed is under way
        self._looking = False
        self._link = link
        # when file and fleet were last looked at
        self.moved_at = monotonic()
        # why this program must go: the database has been made fit for a newer one
        self.superseded: str | None = None

    @property
    def expects_others(self) -> bool:
        """Whether a look at the file, this one or the next, may bring other rules into force."""
        changed = self._stamp is not None and _stamp(self._settings.rules) != self._stamp
        return changed or self._looking or self._candidate is not None

    async def run(self, stopping: asyncio.Event, reload: asyncio.Event) -> None:
        """Looks at the file and at the fleet once a second, and at once when `reload` is set."""
        while not stopping.is_set():
            await wait_for_any(stopping, reload, seconds=POLL)
            asked = reload.is_set()
            reload.clear()
            try:
                with notify.reloading() if asked else nullcontext():
                    await self._look_at_file(asked=asked)
                    await self._follow_fleet()
                if self.superseded is not None:
                    stopping.set()
                self.moved_at = monotonic()
            except (*LOST, ListenerError) as error:
                # Rules that this version cannot read among them: others match then, and sending goes on.
                log.warning("rules_not_polled", error=describe(error))

    async def follow(self, version: int) -> None:
        """Takes over the version that the fleet runs. Raises `ListenerError` when it cannot be used here."""
        if version == self.current.version:
            return
        async with self._link.use() as conn:
            row = await (await conn.execute(SQL["source"], {"version": version})).fetchone()
            if row is None:
                raise ListenerError(f"rules version {version} is not in the database; a reload brings back the file's")
        self._adopt(await asyncio.to_thread(_compiled, row["source"], self._settings.rules, version))

    async def _follow_fleet(self) -> None:
        async with self._link.use() as conn:
            row = await (await conn.execute(SQL["fleet"], {})).fetchone()
        if row is None:
            return
        if newer := migrations.newer(row["migrations"]):
            # What a newer program makes of these rules is not for this one to judge.
            self.superseded = newer
            log.error("database_is_newer", effect="this replica stops", cure="update listener and start it again")
        elif row["rules_version"] is not None:
            await self.follow(row["rules_version"])

    async def _look_at_file(self, *, asked: bool) -> None:
        stamp = _stamp(self._settings.rules)
        if stamp == self._stamp and not asked and self._candidate is None:
            return
        if not asked and stamp not in (self._stamp, self._unsettled):
            # Copied over a slow line, half of a file may be good rules, a rule short or with a text that is cut off.
            self._unsettled = stamp
            return
        self._looking = True
        try:
            await self._take_up_file(stamp, asked=asked)
        finally:
            self._looking = False

    async def _take_up_file(self, stamp: tuple[int, ...], *, asked: bool) -> None:
        self._stamp = stamp
        digest, source, faults = await asyncio.to_thread(_read, self._settings.rules)
        if digest == self._seen and not asked and self._candidate is None:
            return
        fresh, self._seen = digest != self._seen or asked, digest
        try:
            if fresh:
                self._candidate = None
                if faults:
                    raise RulesError(faults)
                self._candidate = await asyncio.to_thread(_compiled, source, self._settings.rules, 0)
            if self._candidate is not None:
                await self._bring_into_force(self._candidate, source)
        except RulesError as error:
            if fresh:
                log.error(
                    "rules_refused", faults=len(error.faults), first=str(error.faults[0]), kept=self.current.version
                )
                # Until that is written down the file is looked at anew, or nobody would see its faults.
                self._stamp, self._seen = None, ""
                async with self._link.use() as conn:
                    await conn.execute(SQL["broken"], {"faults": to_json(asdict(f) for f in error.faults)})
                self._stamp, self._seen = stamp, digest

    async def _bring_into_force(self, rules: RuleSet, source: str) -> None:
        """Only once every trigger captures what these rules need; until then it is tried at every look."""
        async with self._link.use() as conn:
            lacking = await make_ready(conn, rules, self._settings)
            try:
                _check_tokens(rules, self._settings)
            except ListenerError as error:
                lacking.append((str(error), "put it there: these rules are in force as soon as it can be read"))
            if lacking:
                file = str(self._settings.rules)
                raise RulesError([Fault(file=file, line=1, col=1, message=w, hint=cure) for w, cure in lacking])
            version = await register(conn, source)
        self._candidate = None
        self._adopt(replace(rules, version=version))

    def _adopt(self, rules: RuleSet) -> None:
        if rules.version == self.current.version:
            return
        self.current = rules
        self.on_change(rules)
        log.info("rules_in_force", version=rules.version, rules=len(rules.rules.rules))


async def open_rulebook(settings: Settings, link: Link) -> Rulebook:
    """The rules to begin with, the database and accounts made fit for them.

    The file wins, unless it has faults (then the last good rules go on) or other replicas run a text that is newer than
    this file's (then this file was not updated, and they are followed). Raises `ListenerError` when there is nothing
    good to begin with.
    """
    digest, source, faults = _read(settings.rules)
    async with link.use(120.0) as conn:
        await end_frozen(conn)
        file_rules: RuleSet | None = None
        try:
            if faults:
                raise RulesError(faults)
            file_rules = _compiled(source, settings.rules, 0)
        except RulesError as error:
            faults = error.faults
        if settings.auto_install and file_rules is not None:
            await install(conn, file_rules, settings, _say_installed)
        elif await migrations.pending(conn):
            raise (
                ListenerError("the database has no `listener` schema of this version; run `listener db install` once")
                if file_rules is not None
                else RulesError(faults)
            )
        row = await (await conn.execute(SQL["in_use"], {"sha256": digest})).fetchone()
        assert row is not None
        if file_rules is None:
            if row["source"] is None:
                raise RulesError(faults)
            log.error("rules_refused", faults=len(faults), first=str(faults[0]), kept=row["version"])
            await conn.execute(SQL["broken"], {"faults": to_json(asdict(f) for f in faults)})
        elif row["others"] and row["known"] is not None and row["known"] < row["version"]:
            log.warning("rules_file_is_older", file=row["known"], fleet=row["version"], effect="the fleet's are used")
        else:
            version = await register(conn, source)
            row = {"version": version, "source": source}
        rules = _compiled(row["source"], settings.rules, row["version"])
        _check_tokens(rules, settings)
        for lack, cure in await make_ready(conn, rules, settings):
            log.error("capture_differs", what=lack, cure=cure)
        for weakness in await capture.warnings(conn, [], doorbell=settings.doorbell):
            log.warning("database_is_weak", what=weakness)
    return Rulebook(settings, link, rules, digest)


async def register(conn: Connection, source: str) -> int:
    """The database's number for this text of the rules, now in force."""
    row = await (await conn.execute(SQL["register"], {"sha256": _digest(source), "source": source})).fetchone()
    assert row is not None
    await conn.execute(SQL["in_force"], {"version": row["version"]})
    return int(row["version"])


async def make_ready(conn: Connection, rules: RuleSet, settings: Settings) -> list[tuple[str, str]]:
    """Rows for new accounts; triggers where that is allowed. Returns what capture still lacks, in words, and a cure."""
    await accounts.add(conn, list(rules.rules.accounts))
    try:
        found = await captures(conn, rules, settings, tried=False)
    except ListenerError as error:
        return [(fault, MEND) for fault in str(error).splitlines()]
    try:
        if settings.auto_install:
            await install(conn, rules, settings, _say_installed)
        steps = await capture.differences(conn, found)
    except ListenerError as error:
        return [(fault, _INSTALL) for fault in str(error).splitlines()]
    needs = [need for need in await rights.needs_of(conn, rules.rules, found) if need.must]
    refused = await rights.refused(conn, conn.info.user, needs)
    return [(f"{s.what} is not as these rules need it", _INSTALL) for s in steps if s.step not in capture.HARMLESS] + [
        (f"{conn.info.user} may not do this: {need.what}; {cure}", _INSTALL) for need, cure in refused
    ]


def _say_installed(line: str) -> None:
    log.info("installed", what=line)


def _check_tokens(rules: RuleSet, settings: Settings) -> None:
    """Raises `ListenerError` for the first account that has no token where something may be sent."""
    if settings.mode is not Mode.SHADOW:
        for name, account in rules.rules.accounts.items():
            accounts.access(name, account)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes whenever somebody writes the file or puts another in its place; empty while there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[str, str, list[Fault]]:
    """Digest and text of the file, or the faults that keep it from being read."""
    try:
        source = read_text(path)
    except RulesError as error:
        return "unreadable: " + str(error), "", error.faults
    return _digest(source), source, []


def _compiled(source: str, path: Path, version: int) -> RuleSet:
    return compile_rules(parse(source, str(path)), version)


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
