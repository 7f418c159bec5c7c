"""retry, cancel, release: what they change, what they leave alone, and how a race with a running delivery ends."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from listener import interventions, personal
from listener.backoff import Backoff
from listener.model import Accepted, Mode, NotSent, Unknown
from listener.queries import load
from listener.settling import Result, settle
from listener.simulator.gateway import Answer, Break, Fault, Moment, Request
from tests.integration.test_races import leased
from tests.support.verbs import Said, verb
from tests.support.world import PHONE, World, open_world, rules_text

LOST = Fault(action=Break(moment=Moment.BEFORE_ANSWER))


@dataclass(slots=True)
class Gate:
    """Holds requests at the gateway before their effect, while it is closed."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _request: Request) -> None:
        self.reached.set()
        await self.open.wait()


@asynccontextmanager
async def world_with_gate(database: str, rules: str | None = None) -> AsyncIterator[tuple[World, Gate]]:
    gate = Gate()
    async with open_world(database, rules=rules, on_request=gate) as world:
        try:
            yield world, gate
        finally:
            gate.open.set()


async def say(world: World, *words: object) -> Said:
    return await verb(world.environment(), *words)


async def number(world: World, text: str) -> int:
    return int((await world.one("SELECT id FROM listener.messages WHERE text = %s", text))["id"])


async def state(world: World, text: str) -> str:
    return str((await world.one("SELECT state FROM listener.messages WHERE text = %s", text))["state"])


async def test_retry_sends_an_unknown_message_once_more_however_often_it_is_asked_for(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(LOST)
        await world.note("a", "one")
        async with world.service():
            await world.settled()
            assert await world.states() == {"one": "unknown"}
            message = await number(world, "one")
            said = await asyncio.gather(*(say(world, "retry", message, "-o", "json") for _ in range(3)))
            await world.settled()
        assert sorted(s.code for s in said) == [0, 1, 1]
        assert await world.states() == {"one": "accepted"}
        assert world.arrived() == ["one", "one"]
        audit = await world.rows("SELECT verb, count FROM listener.audit ORDER BY count")
        assert [(r["verb"], r["count"]) for r in audit] == [("retry", 0), ("retry", 0), ("retry", 1)]


async def test_an_answer_that_comes_after_a_retry_ends_it_before_it_is_sent(erp_database: str) -> None:
    async with world_with_gate(erp_database) as (world, gate):
        await world.note("a", "one")
        async with world.service():
            await asyncio.wait_for(gate.reached.wait(), 10)
            # The sweep gives up on the permit while its request is still on its way.
            await world.db.execute("UPDATE listener.message SET lease_until = now() - interval '1 s'")
            await world.until("SELECT state = 'unknown' FROM listener.message")
            assert (await say(world, "pause", "--reason", "let us see")).code == 0
            assert (await say(world, "retry", await number(world, "one"))).code == 0
            gate.open.set()
            await world.until("SELECT state = 'accepted' FROM listener.messages")
            assert (await say(world, "resume")).code == 0
            await world.settled()
        assert world.arrived() == ["one"]
        assert await world.states() == {"one": "accepted"}


async def test_what_is_being_sent_is_left_alone(erp_database: str) -> None:
    async with world_with_gate(erp_database) as (world, gate):
        await world.note("a", "one")
        async with world.service():
            await asyncio.wait_for(gate.reached.wait(), 10)
            message = await number(world, "one")
            for word in ("cancel", "retry", "release"):
                said = await say(world, word, message)
                assert said.code == 1
                assert "being sent" in said.err
            gate.open.set()
            await world.settled()
        assert await world.states() == {"one": "accepted"}
        assert world.arrived() == ["one"]


async def test_a_cancelled_message_that_was_sent_after_all_is_shown_as_accepted(erp_database: str) -> None:
    rules = rules_text(ticket='{save: "UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE id = %(id)s"}')
    async with world_with_gate(erp_database, rules) as (world, gate):
        await world.note("a", "one")
        async with world.service():
            await asyncio.wait_for(gate.reached.wait(), 10)
            await world.db.execute("UPDATE listener.message SET lease_until = now() - interval '1 s'")
            await world.until("SELECT state = 'unknown' FROM listener.message")
            assert (await say(world, "cancel", await number(world, "one"))).code == 0
            assert await state(world, "one") == "cancelled"
            gate.open.set()
            await world.until("SELECT state = 'accepted' FROM listener.messages")
            await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
        row = await world.one("SELECT reason, ticket_id FROM listener.messages")
        assert row["reason"].startswith("sent after all")
        assert row["ticket_id"] == world.gateway.state.ledger[0].ticket_id
        assert (await world.one("SELECT saved_ticket FROM public.notes"))["saved_ticket"] == row["ticket_id"]
        status = (await say(world, "status", "-o", "json")).json
        assert (status["messages"]["accepted"], status["messages"]["cancelled"]) == (1, 0)


async def test_the_ticket_of_a_message_that_a_person_knew_to_have_arrived_may_still_be_told(erp_database: str) -> None:
    rules = rules_text(ticket='{save: "UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE id = %(id)s"}')
    async with open_world(erp_database, rules=rules) as world:
        lease = await leased(world, "one")
        await settle(world.db, [Result(lease=lease, outcome=Unknown(cause="it was not seen"))], lambda: 0.5)
        assert await interventions.arrived(world.db, lease.message_id, by="lan", reason=None)
        await settle(world.db, [Result(lease=lease, outcome=Accepted(ticket=7), ms=9)], lambda: 0.5)
        told = await world.one("SELECT state, reason, ticket_id FROM listener.messages")
        assert told == {"state": "accepted", "reason": "it did arrive, says lan", "ticket_id": 7}
        await world.once()
        assert await world.one("SELECT saved_ticket FROM public.notes") == {"saved_ticket": 7}


async def test_a_message_that_the_gateway_refused_is_sent_again_as_it_is(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Answer(status=400, message="no")))
        await world.note("a", "one")
        async with world.service():
            await world.settled()
            assert await world.states() == {"one": "rejected"}
            message = await number(world, "one")
            assert (await say(world, "retry", message, "--reason", "asked on 0912345678")).code == 0
            await world.settled()
        row = await world.one("SELECT id, state, attempts FROM listener.messages")
        assert (row["id"], row["state"], row["attempts"]) == (message, "accepted", 2)
        audit = await world.one("SELECT who, verb, what, count, reason FROM listener.audit")
        assert (audit["verb"], audit["count"], audit["what"]["ids"]) == ("retry", 1, [message])
        assert audit["reason"] == "asked on 091***678"
        assert "/" in audit["who"]


async def test_a_message_rejected_before_any_request_is_judged_anew(erp_database: str) -> None:
    bad = rules_text().replace("{{ new.body }}", "{{ new.body }}{{ new.topic.nothing }}")
    async with open_world(erp_database, rules=bad) as world:
        await world.note("a", "one")
        async with world.service():
            await world.until("SELECT state = 'rejected' FROM listener.messages")
            message = (await world.one("SELECT id FROM listener.messages"))["id"]
            said = await say(world, "retry", message)
            assert said.code == 1
            assert "judged anew" in said.err
        world.use_rules(rules_text())
        async with world.service():
            assert (await say(world, "retry", message)).code == 0
            await world.settled()
        assert await world.states() == {"one": "accepted"}
        assert await number(world, "one") == message
        assert (await say(world, "retry", message)).code == 1


async def test_what_is_no_longer_kept_is_said_not_to_be_when_it_is_retried(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        assert (await say(world, "pause", "--account", "main", "--reason", "x")).code == 0
        await world.note("a", "expired")
        await world.note("b", "rejected", phone="none")
        await world.once()
        await world.db.execute("UPDATE listener.message SET expires_at = now()")
        await world.once()
        left = Counter(m["state"] for m in await world.messages())
        assert left == {"expired": 1, "rejected": 1}
        for state in left:
            await world.db.execute(load("retention")["blank"], {"state": state, "keep": 0.0, "limit": 9})
        said = await say(world, "retry", 1, 2)
        assert said.code == 1
        assert sorted(line.partition("left alone: ")[2] for line in said.err.splitlines()) == [
            "its phone and text are no longer kept",
            "the change that it came of is no longer kept",
        ]


@pytest.mark.parametrize("early", [False, True], ids=["in the queue", "before it"])
async def test_an_expired_message_comes_back_with_all_that_its_rule_asked_for(erp_database: str, early: bool) -> None:
    asked = ("recheck: true", "if_unsure: resend", "max_block: 3m", "quiet_hours: {from: 01:00, to: 01:01}")
    ticket = '{save: "UPDATE public.notes SET ticket_id = %(ticket_id)s WHERE id = %(id)s"}'
    async with open_world(erp_database, rules=rules_text(defaults="\n  ".join(asked), ticket=ticket)) as world:
        await world.note("a", "one")
        assert (await say(world, "pause", "--account", "main", "--reason", "x")).code == 0
        if early:
            await world.db.execute("UPDATE listener.outbox SET at = now() - interval '1 day'")
        async with world.service():
            if not early:
                await world.until("SELECT count(*) = 1 FROM listener.message")
                await world.db.execute("UPDATE listener.message SET expires_at = now() - interval '1 s'")
            await world.until("SELECT state = 'expired' FROM listener.messages")
        assert (await say(world, "retry", "--state", "expired", "--yes")).code == 0
        back = await world.one("SELECT * FROM listener.message")
        assert (back["if_unsure"], back["max_block"]) == ("resend", timedelta(minutes=3))
        assert back["quiet_until"] - back["quiet_at"] == timedelta(minutes=1)
        assert (back["save"]["id"], back["recheck"]) == (1, {"body": "one", "phone": "0980000000"})


async def test_an_expired_message_gets_its_whole_time_again(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.note("a", "one")
        assert (await say(world, "pause", "--account", "main", "--reason", "x")).code == 0
        async with world.service():
            await world.until("SELECT count(*) = 1 FROM listener.message")
            await world.db.execute("UPDATE listener.message SET expires_at = now() - interval '1 s'")
            await world.until("SELECT state = 'expired' FROM listener.messages")
            assert (await say(world, "retry", "--state", "expired", "--yes", "-o", "json")).json["changed"] == 1
            left = await world.one("SELECT extract(epoch FROM expires_at - now())::float8 AS s FROM listener.message")
            assert 21500 < left["s"] <= 21600
            assert (await say(world, "resume", "--account", "main")).code == 0
            await world.settled()
        assert world.arrived() == ["one"]


async def test_release_and_cancel_by_filter_need_a_yes_where_nobody_can_be_asked(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        assert (await say(world, "pause", "--account", "main", "--reason", "wait")).code == 0
        await world.notes([("a", "one"), ("b", "two"), ("c", "three")])
        async with world.service():
            await world.until("SELECT count(*) = 3 FROM listener.message")
            await world.db.execute("UPDATE listener.message SET state = 'held' WHERE text <> 'three'")
            said = await say(world, "cancel", "--key", "a")
            assert said.code == 2
            assert "--yes" in said.err
            assert await state(world, "one") == "held"
            assert (await say(world, "cancel", "--key", "a", "--yes", "-o", "json")).json["changed"] == 1
            assert (await say(world, "release", "--rule", "note", "--yes", "-o", "json")).json["changed"] == 1
            assert (await say(world, "cancel")).code == 2
            assert (await say(world, "cancel", 1, "--rule", "note")).code == 2
            assert (await say(world, "cancel", 999999)).code == 1
            assert (await say(world, "resume", "--account", "main")).code == 0
            await world.settled()
        assert sorted(world.arrived()) == ["three", "two"]
        assert await state(world, "one") == "cancelled"


async def test_in_shadow_nothing_is_sent_also_not_what_is_retried_or_was_made_before(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        assert (await say(world, "pause", "--reason", "x")).code == 0
        await world.note("a", "made live")
        await world.once()
        assert (await say(world, "resume")).code == 0
        await world.note("b", "mended", phone="no phone")
        await world.once(mode=Mode.SHADOW)
        await world.db.execute(
            "UPDATE listener.change SET new = jsonb_set(new, '{phone}', to_jsonb(%s::text))", [PHONE]
        )
        # Whoever asks for it need not know the daemon's mode.
        assert (await say(world, "retry", await number(world, "mended"))).code == 0
        async with world.service(mode=Mode.SHADOW):
            await world.note("c", "shown")
            await world.until("SELECT count(*) = 1 FROM listener.messages WHERE state = 'shadow'")
        assert await world.once(mode=Mode.SHADOW) == 2
        assert await world.states() == {"made live": "waiting", "mended": "waiting", "shown": "shadow"}
        assert world.arrived() == []
        await world.once()
        assert sorted(world.arrived()) == ["made live", "mended"]


@pytest.mark.parametrize("mode", [Mode.ALLOWLIST, Mode.REDIRECT])
async def test_where_few_phones_get_any_no_other_gets_what_is_retried_or_was_made_before(
    erp_database: str, mode: Mode
) -> None:
    mine = "0980000001"
    rules = rules_text(defaults=f"allowlist: [{mine}]\n  redirect_to: {mine}")
    async with open_world(erp_database, rules=rules) as world:
        assert (await say(world, "pause", "--reason", "x")).code == 0
        await world.note("a", "made live")
        await world.once()
        assert (await say(world, "resume")).code == 0
        await world.note("b", "mended", phone="no phone")
        await world.note("c", "tried", phone=mine)
        await world.once(mode=mode)
        await world.db.execute(
            "UPDATE listener.change SET new = jsonb_set(new, '{phone}', to_jsonb(%s::text))", [PHONE]
        )
        assert (await say(world, "retry", await number(world, "mended"))).code == 0
        await world.once(mode=mode)
        assert await world.states() == {"made live": "waiting", "mended": "waiting", "tried": "accepted"}
        assert {row["reason"] for row in await world.messages() if row["state"] == "waiting"} == {
            f"mode {mode}: its phone gets nothing, so it waits"
        }
        await world.db.execute("UPDATE listener.message SET due_at = now()")
        await world.db.execute("UPDATE listener.thread SET next_at = now() WHERE next_at IS NOT NULL")
        await world.once()
        assert world.arrived()[0] == "tried"
        assert sorted(world.arrived()[1:]) == ["made live", "mended"]


async def test_what_grew_too_old_while_it_was_held_is_told_and_not_counted_as_released(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 1/h")) as world:
        await world.notes([("a", "sent"), ("b", "old"), ("c", "young"), ("d", "slept")])
        await world.once()
        await world.db.execute("UPDATE listener.message SET expires_at = now() WHERE text = 'old'")
        # which is past its 20 hours, too, but for the quiet hours of two nights
        await world.db.execute(
            """UPDATE listener.message SET due_at = now() - interval '38 h', quiet_at = now() - interval '37 h',
                      quiet_until = now() - interval '27 h', expires_at = now() - interval '18 h'
                WHERE text = 'slept'"""
        )
        released = await say(world, "release", "--rule", "note", "--yes")
        assert released.out == "release: 2 messages\n"
        old = await number(world, "old")
        assert f"message {old} left alone: it grew too old while it was held" in released.err
        await world.once()
        assert await world.states() == {
            "sent": "accepted", "old": "expired", "young": "accepted", "slept": "accepted",
        }  # fmt: skip
        assert (await say(world, "retry", old)).code == 0
        await world.once()
        assert await state(world, "old") == "accepted"


async def test_one_that_the_brake_holds_is_sent_alone_when_it_is_retried(erp_database: str) -> None:
    async with open_world(erp_database, rules=rules_text(defaults="brake: 1/h")) as world:
        await world.notes([("a", "sent"), ("b", "wanted"), ("c", "held")])
        await world.once()
        assert (await say(world, "retry", await number(world, "wanted"))).code == 0
        await world.once()
        assert await world.states() == {"sent": "accepted", "wanted": "accepted", "held": "held"}


async def test_a_phone_on_the_suppression_list_is_not_retried(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(LOST)
        await world.note("a", "one")
        async with world.service():
            await world.settled()
            await world.db.execute("INSERT INTO listener.suppression VALUES ('0980000000', 'asked', now(), 'test')")
            said = await say(world, "retry", await number(world, "one"))
            assert said.code == 1
            assert "suppression" in said.err
        assert world.arrived() == ["one"]


async def test_a_phone_on_the_suppression_list_is_not_released(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        lease = await leased(world, "one")
        await personal.suppress(world.db, PHONE, by="test", reason="asked to")
        await settle(world.db, [Result(lease=lease, outcome=NotSent(cause="late"))], lambda: 0.5)
        assert await state(world, "one") == "held"
        said = await say(world, "release", lease.message_id)
        assert (said.code, said.out) == (1, "release: 0 messages\n")
        assert "suppression" in said.err


@pytest.mark.parametrize("if_unsure", ["hold", "resend"])
async def test_at_most_one_more_request_after_an_unclear_answer_and_only_where_the_rule_says_so(
    erp_database: str, monkeypatch: pytest.MonkeyPatch, if_unsure: str
) -> None:
    monkeypatch.setattr("listener.settling.RESEND_BACKOFF", Backoff(first=0.05, longest=0.05))
    async with open_world(erp_database, rules=rules_text(defaults=f"if_unsure: {if_unsure}")) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="lost", times=None))
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="late", times=1))
        async with world.service():
            # One by one: too many unclear answers in a row would stop the account for a while.
            for text in ("lost", "well", "late"):
                await world.note(text, text)
                await world.settled()
        again = 2 if if_unsure == "resend" else 1
        assert {text: world.arrived().count(text) for text in ("lost", "late", "well")} == {
            "lost": again,
            "late": again,
            "well": 1,
        }
        late = "accepted" if if_unsure == "resend" else "unknown"
        assert await world.states() == {"lost": "unknown", "late": late, "well": "accepted"}


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, "waiting"), (b"y\n", 0, "cancelled")])
async def test_on_a_terminal_the_count_is_shown_and_asked_about(
    erp_database: str, answer: bytes, code: int, left: str
) -> None:
    async with open_world(erp_database) as world:
        assert (await say(world, "pause", "--reason", "x")).code == 0
        await world.note("a", "one")
        async with world.service():
            await world.until("SELECT state = 'waiting' FROM listener.message")
        person, terminal = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "listener", "cancel", "--key", "a",
                stdin=terminal, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **world.environment()},
            )  # fmt: skip
            os.write(person, answer)
            async with asyncio.timeout(20):
                _, asked = await process.communicate()
        finally:
            os.close(person)
            os.close(terminal)
        assert b"cancel 1 message: 1 waiting" in asked
        assert process.returncode == code
        assert await state(world, "one") == left


def _reads_its_standard_input(pid: int) -> bool:
    """Whether it stands in a system call whose first argument is 0."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == ["0x0"]


async def test_the_first_ctrl_c_at_a_question_ends_the_verb(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        person, terminal = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "listener", "forget", PHONE,
                stdin=terminal, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **world.environment()},
            )  # fmt: skip
            assert process.stderr is not None
            async with asyncio.timeout(20):
                await process.stderr.readuntil(b"[y/N]: ")
                # a signal between the words and the read would be seen only when that ends, as in any program
                while not _reads_its_standard_input(process.pid):
                    await asyncio.sleep(0.02)
                process.send_signal(signal.SIGINT)
                _, said = await process.communicate()
        finally:
            os.close(person)
            os.close(terminal)
        assert (process.returncode, said.strip()) == (1, b"Aborted!")
        assert await world.rows("SELECT FROM listener.audit") == []


async def test_muted_changes_are_released_by_a_person_in_their_order(database: str) -> None:
    async with open_world(database) as world:
        async with world.db.transaction():
            await world.db.execute("SET LOCAL listener.mute = 'import'")
            await world.notes([("a", "first"), ("a", "second")])
        async with world.db.transaction():
            # As listener's own write into the ERP, which is to trigger no rule.
            await world.db.execute("SET LOCAL listener.mute = 'ticket.save'")
            await world.note("a", "a ticket was written back")
        await world.once()
        assert world.arrived() == []
        assert json.loads((await say(world, "status", "-o", "json")).out)["muted"] == 2
        asked = await say(world, "release", "--muted")
        assert (asked.code, await world.rows("SELECT FROM listener.outbox")) == (2, [])
        assert (await say(world, "release", "--muted", "--watch", "other", "--yes")).out == "release: 0 muted changes\n"
        assert (await say(world, "release", "--muted", "--rule", "note", "--yes")).code == 2
        assert "release 2 changes: 2 of note (import)" in asked.err
        assert "longer ago than `expires`" in asked.err
        done = await say(world, "release", "--muted", "--yes", "--reason", "they want it after all")
        assert (done.code, done.out) == (0, "release: 2 muted changes\n")
        await world.once()
        assert world.arrived() == ["first", "second"]
        audit = await world.one("SELECT verb, count, reason FROM listener.audit WHERE count > 0")
        assert audit == {"verb": "release muted", "count": 2, "reason": "they want it after all"}


async def test_what_one_reason_kept_out_is_released_and_an_import_is_not(database: str) -> None:
    """What could not be captured is to go on; nobody is to get an SMS of the import beside it."""
    async with open_world(database) as world:
        for reason, topic in (
            ("import of 0912345678", "a"),
            ("import of 0912345678", "b"),
            ("the outbox was locked", "c"),
        ):
            async with world.db.transaction():
                await world.db.execute("SELECT set_config('listener.mute', %s, true)", [reason])
                await world.note(topic, f"about {topic}")
        asked = await say(world, "release", "--muted")
        assert "release 3 changes: 2 of note (import of 091***678), 1 of note (the outbox was locked)" in asked.err
        none = await say(world, "release", "--muted-for", "another", "--yes", "-o", "json")
        assert (none.code, json.loads(none.out)["changed"]) == (1, 0)
        assert (
            "no change was kept out for that reason; there are: 2 of note (import of 091***678), 1 of note" in none.err
        )
        done = await say(world, "release", "--muted-for", "the outbox was locked", "--yes")
        assert (done.code, done.out) == (0, "release: 1 muted change\n")
        await world.once()
        assert world.arrived() == ["about c"]
        audit = await world.rows("SELECT what, count FROM listener.audit ORDER BY id DESC LIMIT 1")
        assert audit == [{"what": {"muted_for": "the outbox was locked"}, "count": 1}]
