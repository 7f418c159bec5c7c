"""The benches run; what they measure is for a quiet machine, `python -m tests.bench NAME`."""

import json
from pathlib import Path

import pytest

from tests.bench import capture
from tests.bench.__main__ import NAMES, main

# They take what the machine has: run one at a time, with the fault bench.
pytestmark = pytest.mark.faults


@pytest.mark.parametrize("name", NAMES)
def test_a_bench_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--short"]) == 0
    # before it stands what the parts of the daemon that a bench uses had to say
    printed = capsys.readouterr().out
    report = json.loads(printed[printed.index("{\n") :])
    assert report["bench"] == name
    assert all(figure["value"] > 0 for figure in report["figures"] if figure["unit"] in ("tps", "x"))


def test_the_load_works_without_pgbench(erp_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capture, "find_binaries", lambda: tmp_path)
    statement = "UPDATE public.{table} SET balance = balance + 1 WHERE account_no = 'A{id}'"
    case = capture.Case("accounts", statement, clients=2)
    assert capture._load(erp_database, case, seconds=1, rows=20) > 0
