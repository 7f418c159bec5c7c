"""Reload: whole or not at all, one version for all replicas, the last good rules kept."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg.rows import DictRow

from listener import rulebook
from listener.database import Connection, Link, connect
from listener.errors import RulesError
from listener.matching import Matcher
from listener.model import Change
from listener.rules.ruleset import RuleSet
from tests.support.verbs import verb
from tests.support.world import PATIENCE, World, open_world, rules_text

OTHER = rules_text().replace('"{{ new.body }}"', '"new: {{ new.body }}"')
BROKEN = rules_text().replace('"{{ new.body }}"', '"{{ new.body"')


async def in_force(world: World, version: int) -> None:
    await world.until("SELECT rules_version = %s FROM listener.fleet", version, seconds=5)


async def test_a_changed_file_is_live_in_all_replicas_within_three_seconds(database: str) -> None:
    async with open_world(database) as world, world.service() as one, world.service() as two:
        await world.note("a", "first")
        await world.settled()
        world.use_rules(OTHER)
        await in_force(world, 2)
        # From here on no replica may match by the old version, whichever of them is at it.
        for number in range(20):
            await world.note("b", f"message {number}")
            await asyncio.sleep(0.01)
        await world.settled()
        assert world.arrived() == ["first", *(f"new: message {n}" for n in range(20))]
        assert {m["rules_version"] for m in (await world.messages())[1:]} == {2}
        assert one is not two


async def test_a_file_that_is_still_being_written_is_not_read(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rulebook, "POLL", 0.05)
    async with open_world(database) as world, world.service():
        with world.settings.rules.open("w") as file:
            # each piece makes the file good rules, and others than the whole
            for piece in (OTHER.replace("TOKEN_FILE", str(world.token_file)), *("# more\n" for _ in range(20))):
                file.write(piece)
                file.flush()
                await asyncio.sleep(0.02)
        await in_force(world, 2)
        known = await world.rows("SELECT source FROM listener.rules ORDER BY version")
        assert [row["source"].count("# more") for row in known] == [0, 20]


async def test_a_broken_file_changes_nothing_and_is_loud(database: str) -> None:
    async with open_world(database) as world, world.service() as service:
        world.use_rules(BROKEN)
        await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        await world.note("a", "first")
        await world.settled()
        assert world.arrived() == ["first"]
        faults = (await world.one("SELECT faults FROM listener.fleet"))["faults"]
        assert faults[0]["line"] == BROKEN[: BROKEN.index('"{{ new.body"')].count("\n") + 1
        # Mended, also by going back to the very text in force, the fault is gone.
        world.use_rules(rules_text())
        service.reload.set()
        await world.until("SELECT faults = '[]' AND rules_version = 1 FROM listener.fleet", seconds=5)


@pytest.mark.parametrize("gone", [False, True])
async def test_faults_that_cannot_be_written_down_at_once_are_written_down_later(
    database: str, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    monkeypatch.setattr(rulebook, "POLL", 0.02)
    stopping = asyncio.Event()
    async with open_world(database) as world:
        link = Link(world.settings, "upkeep", lock_timeout="50ms")
        polling = asyncio.create_task(
            (await rulebook.open_rulebook(world.settings, link)).run(stopping, asyncio.Event())
        )
        try:
            async with await connect(world.settings, "other") as other, other.transaction():
                await other.execute("LOCK TABLE listener.fleet IN EXCLUSIVE MODE")
                world.settings.rules.unlink() if gone else world.use_rules(BROKEN)
                waits = "EXISTS (SELECT FROM pg_locks WHERE relation = 'listener.fleet'::regclass AND NOT granted)"
                await world.until(f"SELECT {waits}", seconds=5)
                await world.until(f"SELECT NOT {waits}", seconds=5)
            await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        finally:
            stopping.set()
            await polling
            await link.close()


async def test_an_account_without_a_token_is_refused_until_the_token_is_there(database: str) -> None:
    async with open_world(database) as world, world.service():
        token = world.folder / "another-token"
        world.use_rules(OTHER.replace("TOKEN_FILE", str(token)))
        await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        (fault,) = (await world.one("SELECT faults FROM listener.fleet"))["faults"]
        assert "account main: token_file cannot be read" in fault["message"]
        await world.note("a", "first")
        await world.settled()
        token.write_text(world.token_file.read_text())
        await in_force(world, 2)
        await world.note("a", "second")
        await world.settled()
        assert world.arrived() == ["first", "new: second"]


async def test_the_last_good_rules_go_on_after_a_restart_with_a_broken_file(database: str) -> None:
    async with open_world(database) as world:
        await world.once()
        world.use_rules(BROKEN)
        await world.note("a", "first")
        await world.once()
        assert world.arrived() == ["first"]
        world.settings.rules.unlink()
        await world.note("a", "second")
        await world.once()
        assert world.arrived() == ["first", "second"]


async def test_a_broken_file_at_the_very_first_start_is_refused_with_all_faults(database: str) -> None:
    async with open_world(database) as world:
        world.use_rules(BROKEN)
        with pytest.raises(RulesError) as refused:
            await world.once()
        assert refused.value.faults


async def test_a_replica_with_an_older_file_follows_the_fleet(database: str) -> None:
    async with open_world(database) as world, world.service():
        world.use_rules(OTHER)
        await in_force(world, 2)
        older = world.folder / "older.yaml"
        older.write_text(rules_text().replace("TOKEN_FILE", str(world.token_file)), encoding="utf-8")
        async with world.service(rules=older):
            await world.note("a", "first")
            await world.settled()
            assert world.arrived() == ["new: first"]
            assert (await world.one("SELECT rules_version FROM listener.fleet"))["rules_version"] == 2


# without the column ticket_id, and with a watch more
OTHERS = (
    rules_text(ticket="{thread: new.topic}").replace(
        "watch:", "watch:\n  memo: {table: public.notes, events: [insert], key: topic}"
    )
    + """  memo: {on: memo, to: new.phone, text: "memo {{ new.body }}"}
"""
)
WIDER = rules_text().replace('"{{ new.body }}"', '"{{ new.body }} {{ new.id }}"')


async def test_rules_that_need_another_column_wait_for_the_install(database: str) -> None:
    async with open_world(database) as world, world.service():
        world.use_rules(WIDER)
        await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        faults = (await world.one("SELECT faults FROM listener.fleet"))["faults"]
        assert "capture_note" in faults[0]["message"] and "db install" in faults[0]["hint"]
        await world.note("a", "first")
        await world.settled()
        await world.install()
        await in_force(world, 2)
        await world.note("a", "second")
        await world.settled()
        assert world.arrived() == ["first", "second 2"]


async def test_rules_that_name_a_column_wrongly_are_to_be_mended_not_installed(database: str) -> None:
    async with open_world(database) as world, world.service():
        world.use_rules(rules_text().replace('"{{ new.body }}"', '"{{ new.bodi }}"'))
        await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        (fault,) = (await world.one("SELECT faults FROM listener.fleet"))["faults"]
        assert "has no column bodi; did you mean body?" in fault["message"]
        assert fault["hint"] == "mend rules.yaml or the table"
        said = (await verb(world.environment(), "status")).out
        assert "the file now has 1 fault (run `listener check --db`)" in said, said
        checked = await verb(world.environment(), "check", "--db")
        assert (checked.code, "has no column bodi" in checked.out) == (1, True), checked


async def test_changes_that_were_captured_for_the_rules_to_come_wait_for_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`db install` comes first: from then on a column that only the old rules use is no longer written, and there are
    changes of a watch that they do not have."""
    monkeypatch.setattr("listener.rulebook.POLL", 60)
    async with open_world(database) as world, world.service() as service:
        world.use_rules(OTHERS)
        service.reload.set()
        await world.until("SELECT faults <> '[]' FROM listener.fleet", seconds=5)
        await world.install()
        async with world.db.transaction():
            await world.note("a", "for the new")
            await world.db.execute(
                """INSERT INTO listener.outbox (watch, op, key, new)
                   SELECT watch, op, 'b', new || '{"body": "for the old", "topic": "b", "ticket_id": null}'
                     FROM listener.outbox WHERE watch = 'note'"""
            )
        await world.until("SELECT EXISTS (SELECT FROM listener.messages WHERE state = 'accepted')")
        assert await world.states() == {"for the old": "accepted"}
        service.reload.set()
        await world.settled()
        assert await world.states() == dict.fromkeys(["for the old", "for the new", "memo for the new"], "accepted")


async def test_they_wait_also_while_the_file_is_being_read(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, read_on, looked = threading.Event(), threading.Event(), asyncio.Event()
    compiled, for_these = rulebook._compiled, Matcher._for_these

    def slowly(source: str, path: Path, version: int) -> RuleSet:
        reading.set()
        assert read_on.wait(PATIENCE)
        return compiled(source, path, version)

    def noted(matcher: Matcher, rules: RuleSet, rows: Sequence[DictRow]) -> list[Change]:
        looked.set()
        return for_these(matcher, rules, rows)

    monkeypatch.setattr(Matcher, "_for_these", noted)
    async with open_world(database) as world, world.service():
        monkeypatch.setattr(rulebook, "_compiled", slowly)
        world.use_rules(OTHERS)
        try:
            assert await asyncio.to_thread(reading.wait, PATIENCE)
            await world.install()
            await world.note("a", "for the new")
            async with asyncio.timeout(5):
                await looked.wait()
        finally:
            read_on.set()
        await world.settled()
        assert await world.states() == dict.fromkeys(["for the new", "memo for the new"], "accepted")


async def test_they_wait_also_when_the_rules_come_into_force_as_they_are_taken(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulebook, "POLL", 60)
    async with open_world(database) as world, world.service() as service:
        take = Matcher._take

        async def late(matcher: Matcher, conn: Connection) -> tuple[DictRow, list[DictRow]]:
            taken = await take(matcher, conn)
            if taken[1] and matcher._book.current.version == 1:
                service.reload.set()
                async with asyncio.timeout(5):
                    while matcher._book.current.version == 1:
                        await asyncio.sleep(0.01)
            return taken

        monkeypatch.setattr(Matcher, "_take", late)
        world.use_rules(OTHERS)
        await world.install()
        await world.note("a", "for the new")
        await world.settled()
        assert await world.states() == dict.fromkeys(["for the new", "memo for the new"], "accepted")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("new = new - 'body'", {"message": 'new has no column "body"', "change": None}),
        ("watch = 'gone'", {"message": None, "change": "the rules have no watch gone"}),
    ],
)
async def test_a_change_that_no_rules_to_come_are_for_does_not_wait(
    database: str, spoil: LiteralString, reason: dict[str, str | None]
) -> None:
    async with open_world(database) as world:
        await world.note("a", "first")
        await world.db.execute("UPDATE listener.outbox SET " + spoil)
        async with world.service():
            await world.settled(seconds=5)
        told = await world.one(
            "SELECT (SELECT reason FROM listener.messages) AS message, (SELECT note FROM listener.change) AS change"
        )
        assert told == reason


async def test_rules_that_need_another_column_install_it_where_allowed(database: str) -> None:
    async with open_world(database) as world, world.service(auto_install=True):
        world.use_rules(WIDER)
        await in_force(world, 2)
        await world.note("a", "first")
        await world.settled()
        assert world.arrived() == ["first 1"]
