"""A bench that stays green on a broken product proves nothing: the product is broken on purpose, one mistake at a time,
and the checker, or the model, has to say which promise that breaks.

The mistakes are those that programs of this kind are known for. Each is an edit of a statement or a function that runs;
an edit that no longer finds what it is to break fails.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, Unpack

import aiohttp
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from listener import caresoft, limits, matching, messages, settling
from listener.backoff import Backoff
from listener.database import Connection
from listener.delivery import Delivery
from listener.model import Accepted, Outcome
from listener.simulator.gateway import Answer, Break, Fault, Moment
from tests.faults.bench import Bench, open_bench
from tests.faults.checker import broken
from tests.faults.interleavings import Interleavings, stage
from tests.faults.test_soak import LONG
from tests.support.raw_server import answer, raw_server, says

FORGIVES = "m2.if_unsure = 'resend' AND m2.unsure = 0"


def edit(monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Puts `new` for `old` in every statement of a module that has it."""
    statements = {name: text.replace(old.encode(), new.encode()) for name, text in module.SQL.items()}
    assert statements != module.SQL, f"no statement of {module.__name__} has {old!r} any more: break it elsewhere"
    monkeypatch.setattr(module, "SQL", statements)
    if module is messages:
        monkeypatch.setattr(settling, "SQL", statements)


async def verdict(bench: Bench, seconds: float = 5.0) -> list[str]:
    """The promises that are broken, after some time to settle; a broken product need not settle."""
    backlog, drained = await bench.drain(seconds)
    return broken(await bench.evidence(backlog, drained))


def promises(found: Sequence[str]) -> set[str]:
    return {sentence[:2] for sentence in found}


@asynccontextmanager
async def watched(dsn: str, services: int = 1) -> AsyncIterator[Bench]:
    """A bench whose replicas run in this process, where they can be broken."""
    async with open_bench(dsn, keys=6, http_timeout=1.0) as bench:
        async with asyncio.TaskGroup() as tasks:
            leave = asyncio.Event()
            ready = [tasks.create_task(_serve(bench, leave)) for _ in range(services)]
            try:
                yield bench
            finally:
                leave.set()
        assert all(task.done() for task in ready)


async def _serve(bench: Bench, leave: asyncio.Event) -> None:
    async with bench.world.service():
        await leave.wait()


# -- I1


async def test_looking_only_beyond_the_last_number_loses_what_commits_late(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = "AND id > coalesce((SELECT max(id) FROM listener.change), 0)"
    edit(monkeypatch, matching, "'true' ORDER BY id", f"'true' {last} ORDER BY id")
    async with watched(erp_database) as bench, await psycopg.AsyncConnection.connect(erp_database) as late:
        await late.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('late', 'late', '0980000000')")
        await bench.erp.write(1)
        await bench.world.gateway.wait_for(1)
        await late.commit()
        assert "I1" in promises(await verdict(bench, 2.0))


# -- I2


async def test_a_sweep_that_makes_unclear_messages_ready_again_sends_twice(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(monkeypatch, messages, FORGIVES, "true")
    monkeypatch.setattr(settling, "RESEND_BACKOFF", Backoff(first=0.05, longest=0.05))
    async with watched(erp_database) as bench:
        bench.world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), times=2))
        await bench.erp.write(1)
        await bench.world.gateway.wait_for(2)
        assert "I2" in promises(await verdict(bench, 0.1))


async def test_a_request_without_a_mark_that_is_committed_before_is_made_again(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark made together with the result: meanwhile, and after a crash, the message looks as if it waited."""

    @asynccontextmanager
    async def forgetful(conn: Connection) -> AsyncIterator[None]:
        async with conn.pipeline(), psycopg.AsyncTransaction(conn, force_rollback=True):
            yield

    monkeypatch.setattr(messages, "together", forgetful)
    monkeypatch.setattr(Delivery, "offer", lambda *_: None)
    async with watched(erp_database) as bench:
        bench.world.gateway.change(latency=0.5)
        await bench.erp.write(1)
        await bench.world.gateway.wait_for(2)
        assert "I2" in promises(await verdict(bench, 1.0))


# -- I3


async def test_taking_any_200_for_a_yes_calls_accepted_what_was_not(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = caresoft.read_answer

    def trusting(status: int, *args: Any, **more: Any) -> Outcome:
        return Accepted(ticket=1) if status == 200 else read(status, *args, **more)

    monkeypatch.setattr(caresoft, "read_answer", trusting)
    async with watched(erp_database) as bench:
        bench.world.gateway.add_fault(Fault(action=Answer(status=200, body=b"<html>busy</html>")))
        await bench.erp.write(1)
        assert "I3" in promises(await verdict(bench))


async def test_following_redirects_calls_accepted_what_went_elsewhere(
    erp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = aiohttp.ClientSession.request

    def following(self: aiohttp.ClientSession, *args: Any, **more: Any) -> Any:
        return request(self, *args, **{**more, "allow_redirects": True})

    monkeypatch.setattr(aiohttp.ClientSession, "request", following)
    friendly = answer("200 OK", b'{"code":"ok","ticket":{"ticket_id":7}}')
    async with raw_server(says(friendly)) as elsewhere, watched(erp_database) as bench:
        bench.world.gateway.add_fault(Fault(action=Answer(status=301, headers={"Location": elsewhere.url})))
        await bench.erp.write(1)
        assert "I3" in promises(await verdict(bench))


# -- I4


async def test_a_ticket_that_is_not_remembered_is_missed(erp_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(monkeypatch, messages, "coalesce(x.ticket_id, r.ticket_received)", "x.ticket_id")
    async with watched(erp_database) as bench:
        for _ in range(2):
            await bench.erp.write_each_key()
            await bench.world.settled()
        assert promises(await verdict(bench)) == {"I4"}


# -- I5


async def test_the_newest_first_is_no_order(erp_database: str) -> None:
    async with open_bench(erp_database, keys=2) as bench:
        await bench.world.db.execute(
            """CREATE OR REPLACE FUNCTION listener.head(of_thread bigint)
               RETURNS TABLE (id bigint, due_at timestamptz, expires_at timestamptz, priority smallint,
                              ticket_own bigint)
               LANGUAGE sql STABLE ROWS 1 AS $$
                   SELECT m.id, m.due_at, m.expires_at, m.priority, m.ticket_own FROM listener.message m
                    WHERE m.thread_id = of_thread AND m.state = 'waiting' ORDER BY m.order_at DESC, m.id DESC LIMIT 1
               $$"""
        )
        await bench.erp.write(8)
        async with bench.world.service():
            assert promises(await verdict(bench)) == {"I5"}


# -- I6


async def test_a_limiter_of_each_replicas_own_is_none(erp_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = messages.lease
    next_at: dict[object, float] = {}

    async def local(conn: Connection, **terms: Unpack[messages.Terms]) -> messages.Look:
        replica, rate = terms["replica"], terms["rate"]
        assert rate is not None
        wait = next_at.get(replica, 0.0) - monotonic()
        if wait > 0:
            return messages.Look(leases=(), slot_in=wait, due_in=0.0, durable=0)
        next_at[replica] = monotonic() + 1 / rate
        return await lease(conn, **{**terms, "rate": None, "want": 1})

    monkeypatch.setattr(messages, "lease", local)
    async with watched(erp_database, services=3) as bench:
        bench.world.gateway.change(per_second=None)
        await bench.world.notes([(f"topic {n}", f"note {n}") for n in range(60)])
        await bench.world.gateway.wait_for(40)
        assert "I6" in promises(await verdict(bench))


# -- the model

TICKET = "coalesce(x.ticket_id, r.ticket_received)"
UNCLEAR = "a.message_id = m.id AND a.outcome = 'unknown'"
EXPIRES = "expires_at <= clock_timestamp() AND unsure = 0"
# what is broken: where, by which edit, and the promises that may be the first to break by it
MISTAKES: dict[str, tuple[ModuleType, str, str, tuple[str, ...]]] = {
    "an answer's ticket is not remembered": (messages, TICKET, "x.ticket_id", ("I4",)),
    "sent once more, again and again": (messages, FORGIVES, "m2.if_unsure = 'resend'", ("I2",)),
    "what was perhaps sent is rejected": (messages, UNCLEAR, "false", ("I2", "I3")),
    "an earlier answer is forgotten while a later permit is out": (messages, "earlier.accepted\n", "false\n", ("I3",)),
    "what was perhaps sent gives way to a newer change": (limits, "AND m.unsure = 0", "", ("I3",)),
    "what was perhaps sent expires": (messages, EXPIRES, "expires_at <= clock_timestamp()", ("I3",)),
}
# the first few are found in seconds, the others when there is time
TRIED = list(MISTAKES) if LONG else list(MISTAKES)[:2]


@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("mistake", TRIED)
def test_the_model_sees_a_mistake(
    erp_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    module, old, new, first = MISTAKES[mistake]
    edit(monkeypatch, module, old, new)

    said: list[str] = []

    class Machine(Interleavings):
        def _check(self, *, over: bool) -> None:
            try:
                super()._check(over=over)
            except AssertionError as error:
                said.append(str(error))
                raise

    # Flaky: time moves by itself too, so what was seen once need not be seen again.
    with stage(erp_database, tmp_path), suppress(AssertionError, Flaky):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=3000 if LONG else 300,
                stateful_step_count=60,
                derandomize=True,
                database=None,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
    assert any(sentence.startswith(first) for sentence in said), said
