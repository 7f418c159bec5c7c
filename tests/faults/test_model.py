"""Random interleavings of small steps against a model of the promises I1 to I5: any order of them keeps the promises.

The same ones each time, and others from a seed that is printed.
"""

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.interleavings import Interleavings, stage

LONG = os.environ.get("LISTENER_LONG") == "1"
EXAMPLES = 1500 if LONG else 30
STEPS = 60


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize("fixed", [True, False], ids=["the same each time", "a random seed"])
def test_any_interleaving_keeps_the_promises(erp_database: str, tmp_path: Path, fixed: bool) -> None:
    class Machine(Interleavings):
        pass

    if not fixed:
        number = random.SystemRandom().randrange(10**9)
        print(f"seed {number}")
        seed(number)(Machine)
    with stage(erp_database, tmp_path):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=EXAMPLES if fixed else EXAMPLES // 2,
                stateful_step_count=STEPS,
                derandomize=fixed,
                database=None,
                deadline=None,
                # A failure is shrunk where somebody looks into it; to shrink takes minutes.
                phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
