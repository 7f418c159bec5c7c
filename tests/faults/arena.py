"""The product's own steps against a real database, one at a time, in whatever order; its clock is moved by hand."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

from listener import installation, interventions, messages, pauses
from listener.database import BY_INDEX, Connection, Link, connect
from listener.identity import Guard
from listener.interventions import Verb
from listener.matching import Matcher
from listener.model import Lease, Unknown
from listener.pauses import Target
from listener.rulebook import Rulebook, open_rulebook
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Settings
from listener.settling import Result, settle
from tests.faults.model import Shown
from tests.support.world import NOTES, PHONE

REPLICAS, SESSIONS, MATCHERS = 3, 3, 2
DEADLINE = 60.0
RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 1000/s}
defaults: {account: main, expires: 6h, max_block: 24h, ticket: {thread: new.topic}}
watch:
  note: {table: public.notes, events: [insert], key: topic}
rules:
  hold: {on: note, when: "new.body[0] == 'h'", to: new.phone, text: "{{ new.body }}"}
  resend: {on: note, when: "new.body[0] == 'r'", to: new.phone, text: "{{ new.body }}", if_unsure: resend}
  joined:
    {on: note, when: "new.body[0] == 'j'", to: new.phone, text: "{{ new.body }}", if_unsure: resend,
     coalesce: {wait: 10s, max_wait: 60s}}
"""
_EMPTY = (
    "listener.outbox", "listener.change", "listener.message", "listener.finished", "listener.attempt",
    "listener.thread", "listener.ticket_save", "listener.pause", "listener.audit", "listener.tally", "public.notes",
)  # fmt: skip


class Express:
    """A replica that is ready to send at once, or not; what it then may send is for the test to send."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.ready = False
        self.taken: Sequence[Lease] = []

    def offer(self, account: str, want: int) -> messages.Terms | None:
        assert account == "main"
        return _terms(uuid4().int >> 66, want) if self.ready else None

    def take(self, _: messages.Terms, armed: messages.Armed) -> None:
        self.taken = armed.leases

    def withdraw(self, terms: messages.Terms) -> None:
        raise AssertionError(terms)


def _terms(token: int, want: int) -> messages.Terms:
    return {"account": "main", "token": token, "replica": uuid4(), "rate": None, "want": want, "deadline": DEADLINE}


@dataclass(slots=True)
class Arena:
    """`settling` has a connection for each replica, `erp` one for each session; `db` is a person's and the test's."""

    settings: Settings
    db: Connection
    book: Rulebook
    settling: Sequence[Connection]
    leasing: Sequence[Connection]
    matchers: Sequence[Matcher]
    express: Sequence[Express]
    erp: Sequence[Connection]

    async def empty(self) -> None:
        """As after the installation."""
        for session in self.erp:
            if not session.closed:
                await session.execute("ROLLBACK")
        await self.db.execute("".join(f"DELETE FROM {table};" for table in _EMPTY).encode())
        await self.db.execute(
            """UPDATE listener.account SET next_slot = '-infinity', streak = 0, unsure_streak = 0, probe = NULL,
                      paused_at = NULL, paused_until = NULL, pause_kind = NULL, pause_reason = NULL,
                      stopped_until = NULL, stopped_reason = NULL"""
        )

    async def erp_says(self, session: int, statement: LiteralString) -> None:
        await self.erp[session].execute(statement)

    async def write(self, session: int, topic: str, body: str) -> None:
        await self.erp[session].execute(
            "INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, %s)", [topic, body, PHONE]
        )

    async def match(self, matcher: int, *, at_once: bool) -> tuple[bool, Sequence[Lease]]:
        """Whether there was anything to match, and the permits that were taken with it, `at_once`, if any were."""
        express = self.express[matcher]
        express.ready, express.taken = at_once, []
        return bool(await self.matchers[matcher].look()), express.taken

    async def lease(self, replica: int, want: int) -> tuple[int, Sequence[Lease]]:
        """The token of the call, and what it was given, by age."""
        token = uuid4().int >> 66
        look = await messages.lease(self.leasing[replica], **_terms(token, want))
        return token, sorted(look.leases, key=lambda lease: lease.message_id)

    async def leased(self, replica: int, token: int) -> Sequence[Lease]:
        return await messages.leased(self.settling[replica], token)

    async def settle(self, replica: int, results: Sequence[Result]) -> None:
        await settle(self.settling[replica], results, lambda: 0.0)

    async def sweep(self) -> Sequence[Lease]:
        """What every replica's upkeep does; returns the permits that were given up."""
        ended = await messages.ended_leases(self.db)
        await settle(self.db, [Result(lease=one, outcome=Unknown(cause="gone")) for one in ended], lambda: 0.0)
        await pauses.end_pauses(self.db)
        await messages.expire(self.db)
        return ended

    async def pass_time(self, seconds: float) -> None:
        """Everything that is due at some time is due so much earlier."""
        await self.db.execute(
            """UPDATE listener.message SET due_at = due_at - i, order_at = order_at - i, expires_at = expires_at - i,
                                           lease_until = lease_until - i FROM make_interval(secs => %s) AS i""",
            [seconds],
        )
        await self.db.execute(
            """UPDATE listener.thread SET next_at = next_at - i, ticket_wait_until = ticket_wait_until - i
                 FROM make_interval(secs => %s) AS i""",
            [seconds],
        )
        await self.db.execute(
            "UPDATE listener.account SET paused_until = paused_until - make_interval(secs => %s)", [seconds]
        )

    async def act(self, verb: Verb, text: str) -> bool:
        """A person does `verb` to one message; whether it changed."""
        number = await self.number(text)
        deed = await interventions.act(self.db, self.settings, verb, [number], by="somebody", reason=None)
        return number in deed.done

    async def arrived(self, text: str) -> bool:
        return await interventions.arrived(self.db, await self.number(text), by="somebody", reason=None)

    async def pause(self, target: Target) -> None:
        await pauses.pause(self.db, target, reason="wait", until=None, by="somebody")

    async def resume(self, target: Target) -> None:
        await pauses.resume(self.db, target, reason=None, by="somebody")

    # -- looking

    async def number(self, text: str) -> int:
        (row,) = await self._rows("SELECT id FROM listener.messages WHERE text = %s", text)
        return int(str(row["id"]))

    async def text(self, number: int) -> str:
        (row,) = await self._rows("SELECT text FROM listener.messages WHERE id = %s", number)
        return str(row["text"])

    async def busy(self) -> bool:
        """Whether something is on its way or will be."""
        (row,) = await self._rows(
            """SELECT EXISTS (SELECT FROM listener.outbox)
                   OR EXISTS (SELECT FROM listener.message WHERE state IN ('waiting', 'sending')) AS yes"""
        )
        return bool(row["yes"])

    async def messages(self) -> list[Shown]:
        """Every change that was committed, as a message if it is one already."""
        return [
            Shown(text=row["text"], state=row["state"], ticket=row["ticket_id"])
            for row in await self._rows(
                """SELECT text, state, ticket_id FROM listener.message
                   UNION ALL SELECT text, state, ticket_id FROM listener.finished
                   UNION ALL SELECT new ->> 'body', 'captured', NULL FROM listener.outbox"""
            )
        ]

    async def account(self) -> tuple[bool, bool]:
        """Whether the account may not send just now, and whether one request at a time may ask how it stands."""
        (row,) = await self._rows(
            """SELECT coalesce(greatest(paused_until, stopped_until) > clock_timestamp(), false) AS stopped,
                      streak > 0 AS probing FROM listener.account"""
        )
        return row["stopped"], row["probing"]

    async def _rows(self, query: LiteralString, *args: object) -> list[dict[str, Any]]:
        return await (await self.db.execute(query, args or None)).fetchall()


@asynccontextmanager
async def open_arena(dsn: str, folder: Path) -> AsyncIterator[Arena]:
    """An arena on an empty database; rules and token are written into `folder`."""
    token = folder / "token"
    token.write_text("demo-token")
    rules = folder / "rules.yaml"
    rules.write_text(RULES.replace("TOKEN_FILE", str(token)), encoding="utf-8")
    settings = Settings(database_url=dsn, rules=rules, caresoft_url="http://127.0.0.1:9")
    async with AsyncExitStack() as stack:

        async def opened(purpose: str, **session: str) -> Connection:
            return await stack.enter_async_context(await connect(settings, purpose, **session))

        db = await opened("test")
        await db.execute(NOTES.encode())
        link = Link(settings, "upkeep")
        stack.push_async_callback(link.close)
        book = await _book(settings, link, db)
        express = [Express() for _ in range(MATCHERS)]
        matchers = [Matcher(settings, book, lambda: None, express=one) for one in express]
        for matcher in matchers:
            stack.push_async_callback(matcher.close)
        yield Arena(
            settings=settings,
            db=db,
            book=book,
            settling=[await opened("settle", **BY_INDEX) for _ in range(REPLICAS)],
            leasing=[await opened("lease", **BY_INDEX) for _ in range(REPLICAS)],
            matchers=matchers,
            express=express,
            erp=[await opened("erp", idle_in_transaction_session_timeout="0") for _ in range(SESSIONS)],
        )


async def _book(settings: Settings, link: Link, db: Connection) -> Rulebook:
    text = settings.rules.read_text(encoding="utf-8")
    await installation.install(db, compile_rules(parse(text, "rules.yaml")), settings)
    return await open_rulebook(settings, link)
