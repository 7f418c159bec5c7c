"""What machines read: no login, nobody's data, closed labels, cheap, honest about a database that is away."""

import asyncio
import re
from time import monotonic

import pytest
from prometheus_client.parser import text_string_to_metric_families

from listener.model import State
from listener.simulator.gateway import Break, Fault, Moment
from listener.simulator.postgres import Server
from tests.support.browser import ADMIN, person
from tests.support.world import open_world


def read(text: str) -> dict[tuple[str, str], float]:
    """Values by name and the values of their labels."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_figures_are_those_of_the_database_without_anybodys_data(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="canary lost", times=1))
        await world.notes([("canary topic", "canary one"), ("b", "canary lost")], phone="0912345678")
        await world.note("c", "canary bad", phone="12345")
        await world.db.execute(
            "INSERT INTO listener.pause (target, value, reason, who) VALUES ('phone', '0987654321', 'canary', 'canary')"
        )
        async with world.service(admin_token=ADMIN) as service:
            await world.settled()
            async with person(service.address, None) as somebody:
                answer = await somebody.get("/metrics")
                assert answer.status == 200
                assert answer.headers["Content-Type"].startswith("text/plain")
                now = read(answer.text)
                for name, labels, value in (
                    ("listener_database_up", "", 1),
                    ("listener_messages", "unknown", 1),
                    ("listener_messages", "waiting", 0),
                    ("listener_messages_finished", "accepted", 1),
                    ("listener_parts_finished", "accepted", 1),
                    ("listener_messages_finished", "rejected", 1),
                    ("listener_messages_finished", "expired", 0),
                    ("listener_capture_failures_total", "", 0),
                    ("listener_replicas", "", 1),
                    ("listener_rules_version", "", 1),
                    ("listener_pauses", "phone", 1),
                    ("listener_pauses", "all", 0),
                    ("listener_account_stopped", "main,lockout", 0),
                    ("listener_account_stopped", "main,person", 0),
                    ("listener_healthy", "", 1),
                    ("listener_ready", "", 1),
                ):
                    assert now[name, labels] == value, (name, labels)
                assert now["listener_oldest_unknown_seconds", ""] > 0
                everything = answer.text + "".join(
                    [(await somebody.get(p)).text for p in ("/healthz", "/readyz", "/login")]
                )
                for canary in ("canary", "0912345678", "912345678", "0987654321", ADMIN, world.token_file.read_text()):
                    assert canary not in everything


async def test_labels_are_closed_sets(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service() as service, person(service.address, None) as somebody:
        labels: dict[str, set[str]] = {}
        for name, value in re.findall(r'(\w+)="([^"]*)"', (await somebody.get("/metrics")).text):
            labels.setdefault(name, set()).add(value)
        assert set(labels) == {"state", "account", "kind", "scope", "part", "version", "mode"}
        assert labels["state"] == {state.value for state in State}
        assert labels["scope"] == {"all", "account", "rule", "phone"}
        assert labels["kind"] == {"rate", "lockout", "token", "config", "unreachable", "unsure", "person"}


async def test_a_hundred_scrapes_a_second_ask_the_database_once(erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service() as service, person(service.address, None) as somebody:
        await somebody.get("/metrics")
        took = []
        for _ in range(100):
            begun = monotonic()
            assert (await somebody.get("/metrics")).status == 200
            took.append(monotonic() - begun)
        assert sorted(took)[98] < 0.05
        query = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'listener page'"
        assert (await world.one(query))["n"] <= 2


@pytest.mark.faults
async def test_a_database_that_is_away_is_said_and_so_is_its_return(server: Server, erp_database: str) -> None:
    async with open_world(erp_database) as world, world.service() as service, person(service.address, None) as somebody:
        name = (await world.one("SELECT current_database() AS name"))["name"]
        async with await world.db.connect(server.dsn("postgres"), autocommit=True) as boss:
            await boss.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            await boss.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                [name],
            )
            now = read((await somebody.get("/metrics")).text)
            assert now["listener_database_up", ""] == 0
            assert ("listener_messages", "waiting") not in now
            await boss.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
        async with asyncio.timeout(20):
            while read((await somebody.get("/metrics")).text)["listener_database_up", ""] != 1:
                await asyncio.sleep(0.2)
