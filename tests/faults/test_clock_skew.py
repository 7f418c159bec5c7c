"""F70: one of three replicas has a wrong clock. Everything that matters goes by the database's."""

import json
from pathlib import Path

import aiohttp
import pytest

from tests.faults.bench import open_bench
from tests.support.world import Replica

_PLACES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime")


def _libfaketime() -> str | None:
    found = (Path(place) / "libfaketime.so.1" for place in _PLACES)
    return next((str(path) for path in found if path.exists()), None)


@pytest.mark.skipif(_libfaketime() is None, reason="libfaketime (Debian's package of that name) is not installed")
@pytest.mark.parametrize("offset", ["+15m", "-2h"])
async def test_a_wrong_clock_on_one_replica_changes_nothing(erp_database: str, offset: str) -> None:
    library = _libfaketime()
    assert library is not None
    wrong = {"LD_PRELOAD": library, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    async with open_bench(erp_database, keys=10) as bench:
        world = bench.world
        replicas = [await world.replica(), await world.replica(), await world.replica(wait=True, **wrong)]
        await bench.erp.write(20)
        found = await bench.verdict()
        assert {m.state for m in found.messages} == {"accepted"}
        skewed = await world.rows(
            """SELECT id FROM listener.messages
                WHERE created_at NOT BETWEEN now() - interval '2 min' AND now()
                   OR settled_at NOT BETWEEN created_at AND now()
                   OR due_at NOT BETWEEN created_at - interval '2 s' AND created_at + interval '2 s'"""
        )
        assert skewed == []
        assert {m["attempts"] for m in await world.messages()} == {1}
        ahead = [await _clock_ahead(replica) for replica in replicas]
        assert [abs(seconds) < 1 for seconds in ahead] == [True, True, False]
        assert ahead[2] == pytest.approx(900 if offset == "+15m" else -7200, abs=5)
        assert replicas[2].log.read_text().count("clock_differs") == 1
        # It has worked, too: stopped alone with all the work it is still right.
        for replica in replicas[:2]:
            assert await replica.stop() == 0
        await bench.erp.write(5)
        found = await bench.verdict()
        assert {m.state for m in found.messages} == {"accepted"}


async def _clock_ahead(replica: Replica) -> float:
    """By how many seconds its clock is ahead of the database's, as its health says."""
    await replica.said('"serving"')
    line = next(line for line in replica.log.read_text().splitlines() if '"serving"' in line)
    async with aiohttp.ClientSession() as http, http.get(json.loads(line)["address"] + "/healthz") as answer:
        return float((await answer.json())["clock_ahead_s"])
