"""The README's table of measurements: rows of one bench are replaced, the others stay."""

import pytest

from tests.bench.readme import README, TABLE, filled
from tests.bench.report import Figure, Report

EMPTY = "before\n<!-- measured -->\n<!-- /measured -->\nafter\n"


def report(bench: str, value: float, loop: str = "asyncio") -> Report:
    shown = Figure(name="long name", value=value, unit="x", least=0.7, readme=f"what {bench} shows")
    figures = [shown, Figure(name="for information", value=1)]
    return Report(bench=bench, rounds={}, figures=figures, machine={"loop": loop})


def test_a_row_is_written_once_and_says_when_the_mark_is_missed() -> None:
    text = filled(EMPTY, report("deliver", 0.741), "2 cores:")
    text = filled(text, report("match", 0.5), "2 cores:")
    text = filled(text, report("deliver", 0.8, "uvloop"), "2 cores:")
    text = filled(text, report("deliver", 1234.5), "4 cores:")
    assert text.startswith("before\n") and text.endswith("\n<!-- /measured -->\nafter\n")
    assert [row for row in text.splitlines() if row.startswith("| `")] == [
        "| `match` | what match shows | 0.5 | ≥ 0.7, missed |",
        "| `deliver` with uvloop | what deliver shows | 0.8 | ≥ 0.7 |",
        "| `deliver` | what deliver shows | 1,234 | ≥ 0.7 |",
    ]
    assert "4 cores:" in text and "2 cores:" not in text


def test_a_readme_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="measured"):
        filled("nothing here\n", report("match", 1.0), "")
    assert TABLE.search(README.read_text(encoding="utf-8"))
