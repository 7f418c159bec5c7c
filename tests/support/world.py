"""Everything around the daemon, real: a database with the sample ERP and listener beside it, the gateway, and replicas
in this process or as processes of their own.

Beside the sample ERP's tables there is `public.notes`: each row inserted is one SMS (`body` to `phone`) in the thread
of its `topic`, on the ticket `ticket_id` if it has one. Bodies are unique, so that a request names its row.

    async with open_world(erp_database) as world:
        await world.note("order 1", "first")
        async with world.service():
            await world.settled()
        assert await world.states() == {"first": "accepted"}
"""

import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, LiteralString

from listener import installation
from listener.database import Connection, connect
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.service import Observer, Service
from listener.settings import Settings
from listener.simulator.gateway import Gateway, GatewaySettings
from listener.simulator.gateway.server import RequestHook

PHONE = "0980000000"
PATIENCE = 20.0
_RUN = ("-c", "from listener.cli import main; main()", "run")

NOTES = """
CREATE TABLE IF NOT EXISTS public.notes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL, body text NOT NULL UNIQUE, phone text, ticket_id bigint, saved_ticket bigint
)"""

# RATE, TICKET and TOKEN_FILE are filled in; DEFAULTS is for more lines of `defaults`.
RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: RATE}
defaults:
  account: main
  max_parts: 4
  expires: 6h
  DEFAULTS
watch:
  note: {table: public.notes, events: [insert], key: topic}
rules:
  note:
    on: note
    to: new.phone
    text: "{{ new.body }}"
    ticket: TICKET
"""


def rules_text(
    *, rate: str = "100/s", ticket: str = "{id: new.ticket_id, thread: new.topic}", defaults: str = "max_block: 10m"
) -> str:
    """Rules for `public.notes` alone; `ticket` and `defaults` are YAML."""
    return RULES.replace("RATE", rate).replace("TICKET", ticket).replace("DEFAULTS", defaults)


@dataclass(slots=True)
class Replica:
    """A `listener run` process of ours."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process still runs."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`, and returns when it is gone."""
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; returns the exit code. Raises TimeoutError."""
        self.signal(signal.SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Waits for the end of the process; returns the exit code. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def said(self, words: str, seconds: float = PATIENCE) -> None:
        """Waits until its log holds `words`. Raises TimeoutError, and AssertionError when the process ended before."""
        async with asyncio.timeout(seconds):
            while words not in self.log.read_text():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.01)


@dataclass(slots=True)
class World:
    """See the module. `db` is the superuser's connection that tests look and write through."""

    settings: Settings
    gateway: Gateway
    folder: Path
    db: Connection
    replicas: list[Replica] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def use_rules(self, text: str) -> None:
        """Writes rules.yaml; TOKEN_FILE in it becomes the path of the token file."""
        self.settings.rules.write_text(text.replace("TOKEN_FILE", str(self.token_file)), encoding="utf-8")

    async def install(self) -> None:
        """Schema and triggers for the rules as they are now."""
        text = self.settings.rules.read_text(encoding="utf-8")
        await installation.install(self.db, compile_rules(parse(text, "rules.yaml")), self.settings)

    # -- the ERP

    async def note(self, topic: str, body: str, *, phone: str = PHONE, ticket: int | None = None) -> None:
        """Commits one change, of which one SMS is to come."""
        await self.notes([(topic, body)], phone=phone, ticket=ticket)

    async def notes(self, notes: Sequence[tuple[str, str]], *, phone: str = PHONE, ticket: int | None = None) -> None:
        """Commits (topic, body) pairs, all in one transaction."""
        await self.db.execute(
            """INSERT INTO public.notes (topic, body, phone, ticket_id)
               SELECT t, b, %s, %s FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS n(t, b, o) ORDER BY o""",
            [phone, ticket, [t for t, _ in notes], [b for _, b in notes]],
        )

    # -- the daemon

    @asynccontextmanager
    async def service(self, observer: Observer | None = None, **settings: Any) -> AsyncIterator[Service]:
        """A replica in this process, stopped as by SIGTERM at the end; `settings` differ from the world's."""
        running = Service(settings=replace(self.settings, **settings), observer=observer or Observer())
        task = asyncio.create_task(running.run(), name="service")
        ready = asyncio.ensure_future(running.ready.wait())
        await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        try:
            if task.done():
                await task
            yield running
        finally:
            running.stopping.set()
            await task

    async def once(self, **settings: Any) -> int:
        """`run --once` in this process; returns how many threads were due and could not be sent."""
        return (await Service(settings=replace(self.settings, **settings)).run(once=True)).stopped

    async def replica(self, *, wait: bool = True, sabotage: str = "", **environment: str) -> Replica:
        """A `listener run` process, ready unless `wait` is False; killed at the end of the world.

        `sabotage` names the hooks of `sabotage.py` that it runs with.
        """
        log = self.folder / f"replica{next(self._numbers)}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *(["-m", "tests.support.sabotage"] if sabotage else _RUN),
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **self.environment(), **environment, "SABOTAGE": sabotage},
            )  # fmt: skip
        started = Replica(process=process, log=log)
        self.replicas.append(started)
        if wait:
            await started.said('"started"')
        return started

    def environment(self) -> Mapping[str, str]:
        """What `listener` verbs of other processes need to work in this world."""
        return {
            "LISTENER_DATABASE_URL": self.settings.database_url,
            "LISTENER_RULES": str(self.settings.rules),
            "LISTENER_CARESOFT_URL": self.settings.caresoft_url,
            "LISTENER_HTTP_TIMEOUT": str(self.settings.http_timeout),
            "LISTENER_HTTP": "127.0.0.1:0",
            "LISTENER_LOG": "json",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
        }

    # -- looking

    async def rows(self, query: LiteralString, *args: object) -> list[dict[str, Any]]:
        return await (await self.db.execute(query, args or None)).fetchall()

    async def one(self, query: LiteralString, *args: object) -> dict[str, Any]:
        """The only row. Raises AssertionError when there are none or several."""
        found = await self.rows(query, *args)
        assert len(found) == 1, found
        return found[0]

    async def until(self, query: LiteralString, *args: object, seconds: float = PATIENCE) -> None:
        """Waits until the query's first column is true in its first row. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not next(iter((await self.rows(query, *args) or [{"": False}])[0].values())):
                await asyncio.sleep(0.02)

    async def settled(self, seconds: float = PATIENCE) -> None:
        """Waits until no change waits to be matched and no message waits or is being sent."""
        await self.until(
            """SELECT NOT EXISTS (SELECT FROM listener.outbox)
                  AND NOT EXISTS (SELECT FROM listener.message WHERE state IN ('waiting', 'sending'))""",
            seconds=seconds,
        )

    async def messages(self) -> list[dict[str, Any]]:
        """All messages, oldest first, as the view shows them."""
        return await self.rows("SELECT * FROM listener.messages ORDER BY id")

    async def states(self) -> dict[str, str]:
        """The state of each message by its text."""
        return {row["text"]: row["state"] for row in await self.messages()}

    async def attempts(self) -> list[dict[str, Any]]:
        """All permits in the order they were given, with the text they were for."""
        return await self.rows(
            """SELECT m.text, a.* FROM listener.attempt a
                 JOIN (SELECT id, text FROM listener.message UNION ALL SELECT id, text FROM listener.finished) m
                   ON m.id = a.message_id
                ORDER BY a.leased_at, a.message_id, a.n"""
        )

    def arrived(self) -> list[str]:
        """The texts that the gateway accepted, in that order."""
        return [entry.content for entry in self.gateway.state.ledger]

    def logs(self) -> str:
        """All that replica processes have printed so far."""
        return "".join(replica.log.read_text() for replica in self.replicas)

    async def reconnect(self) -> None:
        """A new `db`, after the server went away."""
        await self.db.close()
        self.db = await connect(self.settings, "test")

    async def close(self) -> None:
        """Ends what still runs."""
        for replica in self.replicas:
            await replica.kill()
        await self.db.close()


@asynccontextmanager
async def open_world(
    database_url: str,
    *,
    rules: str | None = None,
    gateway: GatewaySettings | None = None,
    on_request: RequestHook | None = None,
    http_timeout: float = 5.0,
    schema: str = NOTES,
) -> AsyncIterator[World]:
    """A world on an existing database. `schema` is SQL run before listener is installed for `rules`.

    `gateway` by default has no rate limit; `rules` by default is `rules_text()`.
    """
    folder = Path(tempfile.mkdtemp(prefix="listener-world-"))
    try:
        gateway_settings = gateway or GatewaySettings(per_second=None, per_hour=None)
        async with Gateway(gateway_settings, on_request=on_request) as running:
            settings = Settings(
                database_url=database_url,
                rules=folder / "rules.yaml",
                caresoft_url=running.url,
                http_timeout=http_timeout,
                http="127.0.0.1:0",
            )
            world = World(settings=settings, gateway=running, folder=folder, db=await connect(settings, "test"))
            try:
                world.token_file.write_text(gateway_settings.token)
                world.use_rules(rules or rules_text())
                await world.db.execute(schema.encode())
                await world.install()
                yield world
            finally:
                await world.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
