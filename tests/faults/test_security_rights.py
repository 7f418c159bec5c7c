"""Rights (F75) beside tests/integration/test_rights.py, and row-level security (F76)."""

import asyncio
import os
from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.support.roles import DAEMON, READER, RULES, as_role, environment_of, install_roles, make_roles, settings_of
from tests.support.verbs import verb
from tests.support.world import World, open_world

# -- F75 beside tests/integration/test_rights.py: what is asked for twice, taken back, missing, or too much


@pytest.fixture
async def world(erp_database: str) -> AsyncIterator[World]:
    async with open_world(erp_database, rules=RULES) as world:
        yield world


ACLS = """
SELECT 'table', oid::regclass::text, relacl::text FROM pg_class WHERE relacl IS NOT NULL AND oid >= 16384
 UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute WHERE attacl <> '{}'
 UNION ALL SELECT 'schema', nspname::text, nspacl::text FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'
 UNION ALL SELECT 'function', oid::regprocedure::text, proacl::text FROM pg_proc WHERE oid >= 16384 ORDER BY 1, 2
"""


async def test_granting_again_changes_nothing_and_uninstall_takes_all_back(world: World) -> None:
    make_roles(world.settings.database_url, DAEMON, READER)
    assert (await verb(world.environment(), "db", "uninstall", "--yes")).code == 0
    before = await world.rows(ACLS)
    asked = ("--daemon-role", DAEMON, "--reader-role", READER)
    planned = (await verb(world.environment(), "db", "plan", *asked, "-o", "json")).json["steps"]
    assert any(s["step"] == "grant" and "public.customers" in s["what"] for s in planned)
    assert (await verb(world.environment(), "db", "install", *asked)).code == 0
    granted = await world.rows(ACLS)
    assert (await verb(world.environment(), "db", "install", *asked)).code == 0
    assert await world.rows(ACLS) == granted
    # who has a part keeps it without being named
    assert (await verb(world.environment(), "db", "plan", "-o", "json")).json["steps"] == []
    columns = {row["?column?"]: row for row in granted}
    assert columns, "grants were seen"

    # Rules that need less: what was granted for the others goes.
    world.use_rules(RULES.replace("full_name, phone", "phone"))
    assert (await verb(world.environment(), "db", "install")).code == 0
    lookup = await world.one("""SELECT string_agg(attname, ',' ORDER BY attname) AS names FROM pg_attribute
                                 WHERE attrelid = 'public.customers'::regclass AND attacl <> '{}'""")
    assert lookup["names"] == "id,phone"

    removed = await verb(world.environment(), "db", "uninstall", "--yes")
    assert removed.code == 0 and f"the role {DAEMON} is left, without rights" in removed.err
    assert await world.rows(ACLS) == before


async def test_uninstall_names_the_rights_that_it_cannot_know_for_its_own(world: World) -> None:
    """Such as those to a table that has another name by now."""
    make_roles(world.settings.database_url, DAEMON)
    assert (await verb(world.environment(), "db", "install", "--daemon-role", DAEMON)).code == 0
    await world.db.execute("ALTER TABLE public.customers RENAME TO people")
    removed = await verb(world.environment(), "db", "uninstall", "--yes")
    assert removed.code == 0 and f"the role {DAEMON} is left, with rights" in removed.err
    assert "column phone of table people" in removed.err and "without rights" not in removed.err


async def test_roles_that_are_not_there_are_made_or_asked_for(world: World) -> None:
    name = f"made_{os.getpid()}"
    said = await verb(world.environment(), "db", "install", "--daemon-role", name)
    try:
        assert said.code == 0 and f'ALTER ROLE "{name}" LOGIN' in said.err
        made = await world.one("SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = %s", name)
        assert not any(made.values())
        script = await verb(world.environment(), "db", "sql", "--daemon-role", name + "_2")
        assert f'CREATE ROLE "{name}_2" NOLOGIN' in script.out and "GRANT" in script.out
        for words, told in (
            (("--daemon-role", "postgres"), "is a superuser"),
            (("--daemon-role", name, "--reader-role", name), "roles of their own"),
        ):
            refused = await verb(world.environment(), "db", "install", *words)
            assert refused.code == 1 and told in refused.err
        # an installer who may make no roles
        make_roles(world.settings.database_url, "erp_owner")
        await world.db.execute("ALTER SCHEMA listener OWNER TO erp_owner")
        refused = await verb(environment_of(world, "erp_owner"), "db", "plan", "--daemon-role", name + "_2")
        assert refused.code == 1, refused
    finally:
        await verb(world.environment(), "db", "uninstall", "--yes")
        await world.db.execute(f"DROP ROLE {name}".encode())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (f"GRANT INSERT, DELETE ON public.notes TO {DAEMON}", f"{DAEMON} can add rows to a watched table"),
        (f"GRANT CREATE ON SCHEMA public TO {DAEMON}", f"{DAEMON} can make tables in the schema public"),
        (f"GRANT pg_execute_server_program TO {DAEMON}", f"{DAEMON} can run a program on the server"),
        (f"REVOKE SELECT ON public.customers FROM {DAEMON}",
         "needs grant: SELECT (full_name, id, phone) on public.customers"),
        (f"REVOKE DELETE ON listener.outbox FROM {DAEMON}", "needs grant: DELETE on outbox"),
        (f"GRANT ALL ON ALL TABLES IN SCHEMA listener TO {DAEMON}",
         f"TRIGGER, TRUNCATE, UPDATE on audit from {DAEMON}"),
        ("GRANT USAGE ON SCHEMA listener TO PUBLIC; GRANT SELECT ON listener.finished TO PUBLIC",
         "needs revoke: SELECT on finished from PUBLIC"),
        (f"GRANT SELECT ON listener.attempt TO {READER}", f"needs revoke: SELECT on attempt from {READER}"),
    ],
)  # fmt: skip
async def test_too_much_and_too_little_are_named(world: World, spoil: str, told: str) -> None:
    await install_roles(world)
    await world.db.execute(spoil.encode(), prepare=False)
    try:
        said = await verb(world.environment(), "db", "verify")
        assert said.code == 1 and told in said.out, (said.out, said.err)
        if " can " not in told:
            assert (await verb(world.environment(), "db", "install")).code == 0
            assert (await verb(world.environment(), "db", "verify")).code == 0
    finally:
        await world.db.execute(f"REVOKE pg_execute_server_program FROM {DAEMON}".encode())


async def test_an_installer_who_may_do_everything_is_told_that_rules_can_do_so_too(world: World) -> None:
    told = "installed by postgres, a superuser"
    assert told in (await verb(world.environment(), "db", "verify")).err
    make_roles(world.settings.database_url, "erp_owner")
    await world.db.execute("ALTER SCHEMA listener OWNER TO erp_owner")
    assert told not in (await verb(world.environment(), "db", "verify")).err


async def test_an_installer_apart_from_the_erps_owner(world: World) -> None:
    """The ERP's owner writes, and can neither read nor change what listener keeps."""
    names = ("erp_owner", "listener_owner", DAEMON)
    make_roles(world.settings.database_url, *names)
    assert (await verb(world.environment(), "db", "uninstall", "--yes")).code == 0
    database = world.db.info.dbname
    for statement in (
        *(f"ALTER TABLE public.{table} OWNER TO erp_owner" for table in ("notes", "customers")),
        "GRANT ALL ON SCHEMA public TO erp_owner",
        "GRANT erp_owner TO listener_owner",
        f"GRANT CREATE ON DATABASE {database} TO listener_owner",
    ):
        await world.db.execute(statement.encode())
    installed = await verb(environment_of(world, "listener_owner"), "db", "install", "--daemon-role", DAEMON)
    assert installed.code == 0, installed.err
    async with await psycopg.AsyncConnection.connect(
        as_role(world.settings.database_url, "erp_owner"), autocommit=True
    ) as erp:
        await erp.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('t', 'one', '0980000000')")
        for theft in ("SELECT * FROM listener.outbox", "DROP SCHEMA listener CASCADE", "SELECT listener.make_days()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await erp.execute(theft.encode())
    world.settings = settings_of(world.settings, DAEMON)
    await world.once()
    assert list((await world.states()).values()) == ["accepted"]


async def test_a_daemon_whose_right_is_taken_away_says_which(world: World) -> None:
    await install_roles(world)
    world.settings = settings_of(world.settings, DAEMON)
    replica = await world.replica()
    await world.db.execute(f"REVOKE SELECT ON listener.message FROM {DAEMON}".encode())
    async with asyncio.timeout(20):
        assert await replica.process.wait() == 1
    assert "the database refuses: permission denied for table message" in world.logs()


async def test_a_daemon_that_may_make_no_temporary_tables_works(world: World) -> None:
    """What rules touch is found out with one; without, they are only tried."""
    await install_roles(world)
    await world.db.execute(f"REVOKE TEMPORARY ON DATABASE {world.db.info.dbname} FROM PUBLIC".encode())
    superuser, world.settings = world.settings, settings_of(world.settings, DAEMON)
    await world.note("t", "one")
    await world.once()
    assert list((await world.states()).values()) == ["accepted"]
    assert (await verb(world.environment(), "check", "--db")).code == 0
    await world.db.execute(f"REVOKE SELECT ON public.customers FROM {DAEMON}".encode())
    told = f"{DAEMON} may not do this: lookup customer of watch note"
    assert told in (await verb(world.environment(), "check", "--db")).out
    world.settings = superuser


async def test_a_schema_that_the_daemon_may_not_look_into_is_named(world: World) -> None:
    await world.db.execute("CREATE SCHEMA shut; ALTER TABLE public.notes SET SCHEMA shut", prepare=False)
    world.use_rules(RULES.replace("public.notes", "shut.notes"))
    await install_roles(world)
    assert (await verb(environment_of(world, DAEMON), "check", "--db")).code == 0, "install gives USAGE too"
    await world.db.execute(f"REVOKE USAGE ON SCHEMA shut FROM {DAEMON}".encode())
    for words in (("check", "--db"), ("db", "verify")):
        said = await verb(environment_of(world, DAEMON), *words)
        assert said.code == 1 and "permission denied for schema shut" in said.out, (words, said)
        assert f"TO {DAEMON}" in said.out
    planned = await verb(world.environment(), "db", "plan")
    assert f"grant    USAGE on shut to {DAEMON}" in planned.out


# -- F76: row-level security


async def test_policies_of_the_erp_hide_nothing_from_capture_and_what_they_hide_from_lookups_is_told(
    world: World,
) -> None:
    await install_roles(world)
    make_roles(world.settings.database_url, "teller")
    await world.db.execute(
        """ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
           ALTER TABLE public.customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
           CREATE POLICY own ON public.notes TO teller USING (topic = 'mine') WITH CHECK (topic = 'mine');
           GRANT SELECT, INSERT ON public.notes TO teller""",
        prepare=False,
    )
    async with await psycopg.AsyncConnection.connect(
        as_role(world.settings.database_url, "teller"), autocommit=True
    ) as teller:
        await teller.execute("INSERT INTO public.notes (topic, body, phone) VALUES ('mine', 'one', '0980000000')")
    assert await world.rows("SELECT key FROM listener.outbox") == [{"key": "mine"}]
    said = await verb(world.environment(), "db", "verify")
    hidden = f"row-level security hides rows from {DAEMON} that no policy lets it see"
    assert said.code == 0 and f"lookup customer of watch note: {hidden}" in said.err
    assert f"ticket.save of rule note: {hidden}" in said.err
    now = f"watch note: the row as it is now: {hidden}"
    assert now not in said.err, "nothing that is sent depends on it"
    world.use_rules(RULES + "    recheck: true\n")
    assert now in (await verb(world.environment(), "db", "verify")).err
    await world.db.execute(
        f"""CREATE POLICY listener ON public.customers FOR SELECT TO {DAEMON} USING (true);
            CREATE POLICY listener ON public.notes TO {DAEMON} USING (true)""".encode(),
        prepare=False,
    )
    # What is said to mend it is seen to.
    assert hidden not in (await verb(world.environment(), "db", "verify")).err
    await world.db.execute(b"CREATE POLICY less ON public.customers AS RESTRICTIVE USING (id < 1000)")
    told = [line for line in (await verb(world.environment(), "db", "verify")).err.splitlines() if hidden in line]
    assert told == [f"warning: lookup customer of watch note: {hidden}"]
    world.settings = settings_of(world.settings, DAEMON)
    async with world.service():
        await world.until("SELECT saved_ticket IS NOT NULL FROM public.notes")
    assert list((await world.states()).values()) == ["accepted"]


@pytest.mark.parametrize("force", ["", ", FORCE ROW LEVEL SECURITY"])
@pytest.mark.parametrize("table", ["outbox", "muted", "message", "fleet", "migration"])
async def test_row_level_security_of_our_own_tables_is_taken_off(world: World, table: str, force: str) -> None:
    """It would hide every row from the daemon, in silence."""
    await install_roles(world)
    await world.db.execute(f"ALTER TABLE listener.{table} ENABLE ROW LEVEL SECURITY{force}".encode())
    said = await verb(world.environment(), "db", "verify")
    assert said.code == 1 and f"needs replace: row-level security of listener.{table}" in said.out
    assert (await verb(world.environment(), "db", "install")).code == 0
    assert (await verb(world.environment(), "db", "verify")).code == 0
