"""The roles of a real installation, on a server of the tests: who owns the ERP, who installs, who runs, who reads.

Roles belong to the server, databases to a test: so their rights go with the database, and the roles may stay.
"""

from collections.abc import Mapping
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from listener import installation
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Settings
from tests.support.world import World

DAEMON, READER = "listener_daemon", "listener_reader"
# One rule that reads, looks up and writes back.
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
      customer: SELECT full_name, phone FROM public.customers WHERE id = 7
rules:
  note:
    on: note
    to: new.phone
    text: "{{ new.body }} {{ customer.phone }}"
    ticket:
      thread: new.topic
      save: UPDATE public.notes SET saved_ticket = %(ticket_id)s WHERE body = %(body)s
"""


def make_roles(dsn: str, *names: str, options: str = "LOGIN") -> None:
    """Roles that can connect and may nothing, unless they are there already."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name in names:
            if conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
                conn.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), sql.SQL(options)))


def as_role(dsn: str, role: str) -> str:
    """The same database as another role; on the socket nobody asks for a password."""
    return make_conninfo(dsn, user=role)


def settings_of(settings: Settings, role: str) -> Settings:
    return replace(settings, database_url=as_role(settings.database_url, role))


async def install_roles(world: World, *, daemon: str | None = DAEMON, reader: str | None = READER) -> None:
    """Gives the parts of the daemon and a reader to roles that can connect."""
    make_roles(world.settings.database_url, *filter(None, (daemon, reader)))
    # Before PostgreSQL 15 everybody could make tables there.
    await world.db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    rules = compile_rules(parse(world.settings.rules.read_text(encoding="utf-8"), "rules.yaml"))
    await installation.install(world.db, rules, world.settings, daemon_role=daemon, reader_role=reader)


def environment_of(world: World, role: str) -> Mapping[str, str]:
    """For verbs that a person runs as `role`."""
    return {**world.environment(), "LISTENER_DATABASE_URL": as_role(world.settings.database_url, role)}
