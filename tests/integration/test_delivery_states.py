"""The states of a message: only the ways that the design knows, whoever writes; and facts that come late or twice."""

from itertools import product
from uuid import uuid4

import psycopg
import pytest

from listener import messages, pauses, settling
from listener.accounts import add
from listener.model import Accepted, Lease, NotSent, Outcome, RateLimited, Rejected, Stale, State, Unchecked, Unknown
from listener.pauses import Scope, Target
from listener.settling import Result, settle
from tests.support.world import World, open_world

UNFINISHED = ["waiting", "sending", "unknown", "held"]
WAYS = {
    ("waiting", "sending"),
    ("waiting", "held"),
    ("waiting", "unknown"),
    ("sending", "waiting"),
    ("sending", "unknown"),
    ("sending", "held"),
    ("unknown", "waiting"),
    ("unknown", "held"),
    ("held", "waiting"),
}
INSERT = """
INSERT INTO listener.{table} (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, phone, text,
                              state, lease, lease_until, expires_at, settled_at)
SELECT {id}, {id}, 'r', 1, 'note', 'k', 'main', t.id, 't', '0980000000', 'text', '{state}', 1, now(),
       now() + interval '1 h', now()
  FROM listener.thread t WHERE t.name = 't{id}'"""


async def test_a_message_goes_only_where_the_design_lets_it(erp_database: str) -> None:
    """Every pair of states: what is finished is another table's."""
    async with open_world(erp_database) as world:
        await world.db.execute(
            "INSERT INTO listener.thread (account, name) SELECT 'main', 't' || n FROM generate_series(1, 99) n"
        )
        for number, (old, new) in enumerate(product(UNFINISHED, [s.value for s in State]), 1):
            await world.db.execute(INSERT.format(table="message", id=number, state=old).encode())
            change = """UPDATE listener.message SET state = %s, permits = permits + (%s = 'sending')::integer
                         WHERE id = %s"""
            if old == new or (old, new) in WAYS:
                await world.db.execute(change, [new, new, number])
            else:
                with pytest.raises(psycopg.errors.CheckViolation):
                    await world.db.execute(change, [new, new, number])


async def test_no_permit_is_used_twice(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.db.execute("INSERT INTO listener.thread (account, name) VALUES ('main', 't1')")
        await world.db.execute(INSERT.format(table="message", id=1, state="waiting").encode())
        with pytest.raises(psycopg.errors.CheckViolation):
            await world.db.execute("UPDATE listener.message SET state = 'sending', lease = 2")
        await world.db.execute("UPDATE listener.message SET state = 'sending', lease = 2, permits = permits + 1")
        with pytest.raises(psycopg.errors.CheckViolation):
            await world.db.execute("UPDATE listener.message SET state = 'sending', lease = 3, permits = permits + 1")


@pytest.mark.parametrize("table", ["thread", "message"])
async def test_nothing_waits_with_a_priority_that_nobody_looks_for(erp_database: str, table: str) -> None:
    async with open_world(erp_database) as world:
        await world.db.execute("INSERT INTO listener.thread (account, name) VALUES ('main', 't1')")
        await world.db.execute(INSERT.format(table="message", id=1, state="waiting").encode())
        with pytest.raises(psycopg.errors.CheckViolation):
            await world.db.execute(f"UPDATE listener.{table} SET priority = 3".encode())


async def test_what_is_finished_changes_only_into_accepted(erp_database: str) -> None:
    final = [s.value for s in State if s.value not in UNFINISHED]
    async with open_world(erp_database) as world:
        await world.db.execute(
            "INSERT INTO listener.thread (account, name) SELECT 'main', 't' || n FROM generate_series(1, 99) n"
        )
        for number, (old, new) in enumerate(product(final, [s.value for s in State]), 1):
            await world.db.execute(INSERT.format(table="finished", id=number, state=old).encode())
            if old == new or (new == "accepted" and old in ("cancelled", "expired", "rejected")):
                await world.db.execute("UPDATE listener.finished SET state = %s WHERE id = %s", [new, number])
            else:
                with pytest.raises(psycopg.errors.CheckViolation):
                    await world.db.execute("UPDATE listener.finished SET state = %s WHERE id = %s", [new, number])


# -- what a permit's outcomes, in any order, make of the message


async def permits(world: World, want: int) -> tuple[Lease, ...]:
    look = await messages.lease(
        world.db, account="main", token=uuid4().int >> 66, replica=uuid4(), rate=None, want=want, deadline=60.0
    )
    return look.leases


async def permit(world: World) -> Lease:
    """The permit of the only message that waits."""
    (lease,) = await permits(world, 1)
    return lease


async def tell(world: World, lease: Lease, *outcomes: Outcome) -> None:
    """Settles outcomes of one permit in one batch, and then all again: their COMMIT was not confirmed."""
    results = [Result(lease=lease, outcome=outcome, ms=1) for outcome in outcomes]
    for _ in range(2):
        await settle(world.db, results, lambda: 0.0)


async def queue(world: World, count: int = 1, if_unsure: str = "hold") -> None:
    """Messages that wait, each in a thread of its own."""
    await add(world.db, ["main"])
    rows = [{
        "place": n, "change_id": n, "rule": "note", "watch": "note", "key": f"k{n}", "account": "main",
        "thread": f"note:k{n}", "priority": 1, "phone": "0980000000", "text": "text", "parts": 1, "encoding": "gsm7",
        "state": "waiting", "if_unsure": if_unsure, "max_block_s": 600, "due_at": "2026-01-01T00:00Z",
        "expires_at": "2099-01-01T00:00Z",
    } for n in range(count)]  # fmt: skip
    threads = {("main", f"note:k{n}") for n in range(count)}
    async with world.db.transaction():
        await messages.lock_threads(world.db, threads)
        await messages.insert(world.db, 1, rows)
        await messages.wake_threads(world.db, threads)


GONE, LATE, YES, NO = (
    Unknown(cause="gone"),
    NotSent(cause="late"),
    Accepted(ticket=7),
    Rejected(reason="no", status=400),
)


@pytest.mark.parametrize(
    ("batches", "state", "unsure", "attempts"),
    [
        ([[YES]], "accepted", 0, 1),
        ([[GONE]], "unknown", 1, 1),
        ([[GONE], [YES]], "accepted", 1, 1),
        ([[GONE, YES]], "accepted", 1, 1),
        ([[YES, GONE]], "accepted", 0, 1),
        ([[YES], [GONE]], "accepted", 0, 1),
        ([[GONE], [NO]], "rejected", 1, 1),
        ([[NO], [GONE]], "rejected", 0, 1),
        ([[GONE], [LATE]], "waiting", 0, 0),
        ([[GONE, LATE]], "waiting", 0, 0),
        ([[LATE], [GONE]], "waiting", 0, 0),
        ([[LATE], [LATE]], "waiting", 0, 0),
    ],
)
async def test_facts_win_over_guesses_whenever_they_come(
    erp_database: str, batches: list[list[Outcome]], state: str, unsure: int, attempts: int
) -> None:
    async with open_world(erp_database) as world:
        await queue(world)
        lease = await permit(world)
        for batch in batches:
            await tell(world, lease, *batch)
        row = await world.one(
            """SELECT state, unsure, attempts FROM listener.message
               UNION ALL SELECT state, unsure, attempts FROM listener.finished"""
        )
        assert (row["state"], row["unsure"], row["attempts"]) == (state, unsure, attempts)
        thread = await world.one("SELECT lease, next_at <= now() AS due FROM listener.thread")
        assert (thread["lease"], thread["due"]) == (None, True if state == "waiting" else None)


async def test_once_perhaps_sent_it_is_never_called_rejected(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await queue(world, if_unsure="resend")
        await tell(world, await permit(world), GONE)
        await world.db.execute("UPDATE listener.message SET due_at = now()")
        await world.db.execute("UPDATE listener.thread SET next_at = now()")
        await tell(world, await permit(world), NO)
        row = await world.one("SELECT state, reason, attempts, unsure FROM listener.message")
        assert row == {"state": "unknown", "reason": "refused by the gateway: no", "attempts": 2, "unsure": 1}


async def test_an_answer_to_the_first_of_two_permits_saves_the_second(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await queue(world, if_unsure="resend")
        first = await permit(world)
        await tell(world, first, GONE)
        assert (await world.one("SELECT state FROM listener.message"))["state"] == "waiting"
        await tell(world, first, YES)
        assert await world.states() == {"text": "accepted"}
        assert (await world.one("SELECT next_at, ticket_id FROM listener.thread")) == {"next_at": None, "ticket_id": 7}


@pytest.mark.parametrize(
    "second",
    [YES, NO, LATE, GONE, RateLimited(retry_after=None), Stale(reason="old"), Unchecked(cause="no right")],
    ids=lambda o: type(o).__name__,
)
@pytest.mark.parametrize("together", [False, True], ids=["before", "in the same batch"])
async def test_an_answer_to_the_first_permit_counts_while_the_second_is_under_way(
    erp_database: str, second: Outcome, together: bool
) -> None:
    """Whatever comes of the second: the message was accepted, and never goes back to wait for a third."""
    async with open_world(erp_database) as world:
        await queue(world, if_unsure="resend")
        first = await permit(world)
        await tell(world, first, GONE)
        await world.db.execute("UPDATE listener.message SET due_at = now()")
        await world.db.execute("UPDATE listener.thread SET next_at = now()")
        other = await permit(world)
        if together:
            results = [Result(lease=other, outcome=second, ms=1), Result(lease=first, outcome=YES, ms=1)]
            await settle(world.db, results, lambda: 0.0)
        else:
            await tell(world, first, YES)
            assert await world.states() == {"text": "sending"}
            await tell(world, other, second)
        assert await world.states() == {"text": "accepted"}
        row = await world.one("SELECT ticket_id, attempts FROM listener.messages")
        assert row == {
            "ticket_id": 7,
            "attempts": 1 if isinstance(second, NotSent | RateLimited | Stale | Unchecked) else 2,
        }
        assert (await world.one("SELECT lease, next_at, ticket_id FROM listener.thread")) == {
            "lease": None,
            "next_at": None,
            "ticket_id": 7,
        }


async def test_what_stops_the_account_costs_no_place_in_the_thread(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await queue(world)
        await world.db.execute(
            "UPDATE listener.message SET order_at = now() - interval '1 h', due_at = now() - interval '1 h'"
        )
        before = await world.one("SELECT order_at FROM listener.message")
        await tell(world, await permit(world), LATE)
        assert await world.one("SELECT order_at FROM listener.message") == before


@pytest.mark.parametrize(("minutes", "behind"), [(9, False), (11, True)])
async def test_a_resend_gives_up_its_place_after_max_block_and_not_before(
    erp_database: str, minutes: int, behind: bool
) -> None:
    async with open_world(erp_database) as world:
        await queue(world, if_unsure="resend")
        await world.db.execute(
            "UPDATE listener.message SET order_at = now() - %s * interval '1 min', due_at = now() - interval '1 h'",
            [minutes],
        )
        await tell(world, await permit(world), GONE)
        row = await world.one("SELECT order_at > now() AS behind, due_at - now() AS wait FROM listener.message")
        assert row["behind"] is behind
        assert 0 < row["wait"].total_seconds() <= settling.RESEND_BACKOFF.longest * 2


@pytest.mark.parametrize(
    ("batches", "kind"),
    [
        (["?????"], "unsure"),
        (["????", "?"], "unsure"),
        (["!?????"], "unsure"),
        (["?????!"], None),
        (["????!????"], None),
        (["????", "!??", "??"], None),
    ],
)
async def test_a_clear_answer_ends_a_run_of_unclear_ones(
    erp_database: str, batches: list[str], kind: str | None
) -> None:
    """`?` is an unclear answer, `!` a clear one, as they came; each batch is written down at once."""
    async with open_world(erp_database) as world:
        await queue(world, 10)
        for batch in batches:
            leases = await permits(world, len(batch))
            outcomes = [Unknown(cause="the connection broke") if c == "?" else Accepted(ticket=1) for c in batch]
            results = [
                Result(lease=lease, outcome=outcome, ms=5) for lease, outcome in zip(leases, outcomes, strict=True)
            ]
            await settle(world.db, results, lambda: 0.5)
        account = await world.one("SELECT pause_kind FROM listener.account")
        assert account["pause_kind"] == kind


async def test_an_answer_tells_whether_there_may_be_more_to_send(erp_database: str) -> None:
    """Where nothing follows in its thread, and no pause ends by it, nobody need look."""
    async with open_world(erp_database) as world:
        await queue(world, 5)
        first, second, third, fourth = await permits(world, 4)

        async def more(lease: Lease, outcome: Outcome) -> bool:
            return await settle(world.db, [Result(lease=lease, outcome=outcome, ms=1)], lambda: 0.0)

        assert not await more(first, YES)
        await world.db.execute("UPDATE listener.message SET thread_id = %s WHERE state = 'waiting'", [second.thread_id])
        assert await more(second, YES), "another one of the thread"
        await world.db.execute(
            """UPDATE listener.account
                  SET streak = 1, probe = %s, paused_at = now(), paused_until = now() + interval '1 h',
                      pause_kind = 'rate', pause_reason = '429'""",
            [third.lease],
        )
        assert await more(third, YES), "the account goes on"
        assert await more(fourth, LATE), "it goes again"


async def test_only_what_waits_and_was_surely_not_sent_expires(erp_database: str) -> None:
    """All in one thread: what was perhaps sent is never called expired, and what is being sent is left alone."""
    async with open_world(erp_database) as world:
        await pauses.pause(world.db, Target(scope=Scope.ALL), reason="x", until=None, by="test")
        await world.notes([("a", text) for text in ("sending", "held", "asked", "unsure", "old", "young", "new")])
        await world.once()
        await world.db.execute(
            """UPDATE listener.message SET expires_at = now() WHERE text NOT IN ('young', 'new');
               UPDATE listener.message SET unsure = 1 WHERE text IN ('asked', 'unsure', 'young');
               UPDATE listener.message SET state = 'held' WHERE text IN ('held', 'asked');
               UPDATE listener.message SET state = 'sending', permits = 1, lease = 7, lease_until = 'infinity'
                WHERE text = 'sending'"""
        )
        await messages.expire(world.db)
        assert await world.states() == {
            "sending": "sending", "held": "held", "asked": "held", "unsure": "unknown", "old": "expired",
            "young": "waiting", "new": "waiting",
        }  # fmt: skip
