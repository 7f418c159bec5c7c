"""F70: one of three replicas has a wrong clock. Everything that matters goes by the database's."""

from pathlib import Path

import pytest

from tests.faults.bench import open_bench

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
        # It has worked, too: stopped alone with all the work it is still right.
        for replica in replicas[:2]:
            assert await replica.stop() == 0
        await bench.erp.write(5)
        found = await bench.verdict()
        assert {m.state for m in found.messages} == {"accepted"}
