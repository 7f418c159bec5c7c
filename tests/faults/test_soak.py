"""F02 and F84: random faults under load, and afterwards every promise holds."""

import os
import random
from collections import Counter

import pytest

from listener.simulator.postgres import Server
from tests.faults.soak import soak

LONG = os.environ.get("LISTENER_LONG") == "1"
SECONDS = 600.0 if LONG else 60.0


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("seed", [7, None], ids=["seed 7", "random seed"])
async def test_every_promise_holds_under_random_faults(
    crashable: Server, crashable_database: str, seed: int | None
) -> None:
    chosen = random.randrange(1_000_000) if seed is None else seed
    found = await soak(crashable, crashable_database, chosen, SECONDS, keys=200 if LONG else 30)
    states = Counter(m.state for m in found.messages)
    print(f"seed {chosen}: {dict(states)}, {len(found.acceptances)} accepted, drained in {found.drained:.1f} s")
    assert states["accepted"] > len(found.committed) / 2
