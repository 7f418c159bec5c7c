"""The daemon, the page, the verbs and people's queries, each as a role that may do no more than it must."""

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.support.browser import ADMIN, person
from tests.support.roles import DAEMON, READER, as_role, environment_of, install_roles, settings_of
from tests.support.verbs import verb
from tests.support.world import World, open_world

RULES = """
version: 1
accounts:
  main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 500/s}
watch:
  note:
    table: public.notes
    events: [insert]
    key: topic
    lookup:
      customer: SELECT c.full_name, c.phone FROM public.customers c WHERE c.id = 7
  due: {every: "00:00", select: "SELECT account_no, balance FROM public.accounts WHERE balance < 0", key: account_no}
rules:
  note:
    on: note
    to: new.phone
    recheck: true
    text: "{{ new.body }} {{ customer.full_name | shorten(20) }}"
    ticket:
      thread: new.topic
      save: UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE body = %(body)s
  due: {on: due, to: "'0980000000'", text: "{{ new.account_no }}"}
"""


@pytest.fixture
async def world(erp_database: str) -> AsyncIterator[World]:
    """Installed by its owner; everything else happens as the daemon's role, which owns nothing."""
    async with open_world(erp_database, rules=RULES) as world:
        await install_roles(world)
        yield world


async def test_the_whole_way_as_the_daemons_role(world: World) -> None:
    days = [f"{table}_{day}" for table in ("finished", "attempt", "change") for day in await _days(world)]
    await world.db.execute(f"DROP TABLE {', '.join(f'listener.{day}' for day in days[-3:])}".encode())
    world.settings = settings_of(world.settings, DAEMON)
    async with world.service(admin_token=ADMIN) as service:
        await world.note("order 1", "first")
        await world.settled()
        await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
        assert await world.states() == {"first Dang Thi Uot": "accepted"}, world.logs()
        for day in days:
            await world.until("SELECT to_regclass('listener.' || %s) IS NOT NULL", day)
        async with person(service.address) as somebody:
            for path in ("/", "/messages", "/messages/1", "/rules", "/audit", "/metrics", "/healthz"):
                assert (await somebody.get(path)).status == 200, path
            form = {"target": "all", "reason": "test", "span": "2h"}
            assert (await somebody.post("/interventions/pause", form)).status == 303
        who = await world.rows("""SELECT DISTINCT usename FROM pg_stat_activity
                                   WHERE application_name LIKE 'listener %%' AND application_name <> 'listener test'""")
        assert [row["usename"] for row in who] == [DAEMON]


async def _days(world: World) -> list[str]:
    rows = await world.rows("""SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') AS day
                                 FROM generate_series(0, 7) n""")
    return [row["day"] for row in rows]


async def test_every_verb_as_the_daemons_role(world: World) -> None:
    world.settings = settings_of(world.settings, DAEMON)
    env = world.environment()

    async def says(*words: object) -> Any:
        said = await verb(env, *words)
        assert said.code == 0, (words, said.err)
        return said

    await says("pause", "--rule", "note", "--reason", "test")
    await world.notes([("order 1", "first"), ("order 2", "second")])
    await world.once()
    assert {m["state"] for m in (await says("messages", "-o", "json")).json} == {"held"}
    first = (await world.messages())[0]["id"]
    await says("resume", "--rule", "note")
    await world.once()
    await says("pause", "--phone", "0980000000", "--reason", "test")
    await world.note("order 3", "third")
    await world.once()
    third = (await world.messages())[-1]["id"]
    await says("cancel", third, "--yes")
    await says("resume", "--phone", "0980000000")
    for words in (
        ("message", first, "-o", "json"),
        ("status",),
        ("why", "0980000000"),
        ("why", "order 1"),
        ("replay", "--since", "1d"),
        ("preview", "note", "--key", "order 1"),
        ("export", "0980000000"),
        ("check", "--db"),
        ("db", "plan"),
        ("db", "verify"),
        ("forget", "0980000000", "--yes"),
        ("release", "--muted"),
    ):
        await says(*words)
    refused = await verb(env, "db", "uninstall", "--yes")
    assert refused.code == 1 and "as the owner" in refused.err, refused.err


async def test_a_reader_reads_the_two_views_and_nothing_else(world: World) -> None:
    await world.note("order 1", "first")
    await world.once()
    async with await psycopg.AsyncConnection.connect(
        as_role(world.settings.database_url, READER), autocommit=True
    ) as reader:
        found = await (await reader.execute("SELECT text, state FROM listener.messages")).fetchall()
        assert found == [("first Dang Thi Uot", "accepted")]
        assert len(await (await reader.execute("SELECT ticket_id FROM listener.tickets")).fetchall()) == 1
        rows = await world.rows(
            """SELECT relname AS name FROM pg_class WHERE relnamespace = 'listener'::regnamespace
                  AND relkind IN ('r', 'p', 'S', 'v') AND relname NOT IN ('messages', 'tickets')"""
        )
        assert len(rows) > 40
        for row in rows:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await reader.execute(f"SELECT * FROM listener.{row['name']}".encode())
        for theft in (
            "UPDATE listener.messages SET state = 'accepted'",
            "DELETE FROM listener.tickets",
            "SELECT listener.make_days()",
            "SELECT listener.drop_day('3 days')",
            "CREATE TABLE listener.mine ()",
            "SELECT * FROM public.customers",
        ):
            with pytest.raises(psycopg.Error) as refused:
                await reader.execute(theft.encode())
            assert refused.value.sqlstate in ("42501", "55000"), theft


async def test_each_role_is_tried_and_nothing_stays_of_it(world: World) -> None:
    await world.db.execute(
        """DO $$ BEGIN CREATE ROLE clerk LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                              GRANT SELECT, INSERT ON public.notes TO clerk""",
        prepare=False,
    )
    before = await _everything(world)
    report = (await verb(world.environment(), "db", "verify", "-o", "json")).json
    assert await _everything(world) == before
    tries = [(t["role"], t["must"], t["did"]) for t in report["tries"]]
    assert {did == must for _, must, did in tries} == {True}, report["tries"]
    refused = [role for role, must, _ in tries if must == "refused"]
    assert refused.count(DAEMON) == 14
    assert refused.count("clerk") == 10
    assert refused.count(READER) == 5
    worked = [role for role, must, _ in tries if must == "worked"]
    # the outbox and its kin, and what the rules do: a row, a lookup, a select, a save
    assert worked.count(DAEMON) == 5 + 4
    assert report["ok"] is True

    # As the daemon's role itself, who can try nobody else.
    said = await verb(environment_of(world, DAEMON), "db", "verify", "-o", "json")
    own = [t for t in said.json["tries"] if t["role"] == DAEMON]
    assert len(own) == 23 and all(t["did"] == t["must"] for t in own)
    assert any("tries as clerk were not made" in w for w in said.json["warnings"])


async def _everything(world: World) -> list[dict[str, Any]]:
    return await world.rows(
        """SELECT oid, xmin::text, relname::text AS name, relacl::text AS acl FROM pg_class WHERE oid >= 16384
            UNION ALL SELECT oid, '', rolname::text, '' FROM pg_roles
            UNION ALL SELECT oid, '', nspname::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
            ORDER BY 1, 3"""
    )


async def test_a_lookup_that_the_role_may_not_read_is_named_where_it_stands(world: World) -> None:
    await world.db.execute(f"REVOKE SELECT ON public.customers, public.notes FROM {DAEMON}".encode())
    checked = await verb(environment_of(world, DAEMON), "check", "--db", "-o", "json")
    assert checked.code == 1, checked
    faults = {f["line"]: (f["message"], f["hint"].replace('"', "")) for f in json.loads(checked.out)["faults"]}
    denied = f"{DAEMON} may not do this: "
    assert faults == {
        7: (f"{denied}watch note: the row as it is now",
            f"GRANT SELECT (body, phone, topic) ON TABLE public.notes TO {DAEMON}"),
        11: (f"{denied}lookup customer of watch note",
             f"GRANT SELECT (full_name, id, phone) ON TABLE public.customers TO {DAEMON}"),
        21: (f"{denied}ticket.save of rule note", f"GRANT SELECT (body) ON TABLE public.notes TO {DAEMON}"),
    }  # fmt: skip


async def test_rules_that_the_daemon_may_not_follow_are_not_taken(world: World) -> None:
    """A reload with a lookup that cannot be read would reject every message: it is refused whole, and told."""
    world.settings = settings_of(world.settings, DAEMON)
    async with world.service() as service:
        more = RULES.replace("SELECT c.full_name, c.phone", "SELECT c.full_name, c.birthday, c.phone")
        world.use_rules(more)
        service.reload.set()
        await world.until("SELECT faults <> '[]' FROM listener.fleet")
        fault = await world.one("SELECT faults #>> '{0,message}' AS told FROM listener.fleet")
        assert 'GRANT SELECT ("birthday") ON TABLE public.customers TO "listener_daemon"' in fault["told"]
        await world.note("order 1", "first")
        await world.settled()
        assert await world.states() == {"first Dang Thi Uot": "accepted"}
        await world.db.execute(f"GRANT SELECT (birthday) ON public.customers TO {DAEMON}".encode())
        service.reload.set()
        await world.until("SELECT faults = '[]' AND rules_version = 2 FROM listener.fleet")
