"""The README's table of what was measured: a row for each figure that has a name there, and the machine and the day."""

import re
import subprocess
from datetime import date
from pathlib import Path

from listener.simulator.binaries import find_binaries
from tests.bench.report import Figure, Report

README = Path(__file__).parents[2] / "README.md"
TABLE = re.compile(r"(?<=^<!-- measured -->\n).*?(?=^<!-- /measured -->)", re.MULTILINE | re.DOTALL)
HEAD = "| bench | | measured | mark |\n| --- | --- | --- | --- |\n"


def write(report: Report) -> None:
    """Replaces the rows of this bench in the README; the others stay as they were measured."""
    text = README.read_text(encoding="utf-8")
    README.write_text(filled(text, report, _where(report)), encoding="utf-8")


def filled(text: str, report: Report, where: str) -> str:
    """The README's `text` with the rows of `report`; raises ValueError when the table is not there."""
    found = TABLE.search(text)
    if found is None:
        raise ValueError("README.md has no <!-- measured --> ... <!-- /measured -->")
    bench = f"`{report.bench}`" + (" with uvloop" if report.machine.get("loop") == "uvloop" else "")
    others = [row for row in found[0].splitlines() if row.startswith("| `") and not row.startswith(f"| {bench} |")]
    rows = others + [_row(bench, figure) for figure in report.figures if figure.readme]
    table = f"{where}\n\n{HEAD}" + "".join(f"{row}\n" for row in rows) + "\n"
    return text[: found.start()] + table + text[found.end() :]


def _row(bench: str, figure: Figure) -> str:
    unit = {"x": "", "/s": "/s", "%": " %"}.get(figure.unit, f" {figure.unit}" if figure.unit else "")
    value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.3g}"
    bound = figure.bound.replace(">=", "≥").replace("<=", "≤") + ("" if figure.good else ", missed")
    return f"| {bench} | {figure.readme} | {value}{unit} | {bound} |"


def _where(report: Report) -> str:
    version = subprocess.run([find_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    postgres = re.search(r"[\d.]+", version.stdout)
    assert postgres
    m = report.machine
    return f"{m['cores']} cores, Python {m['python']}, PostgreSQL {postgres[0]}, {date.today():%-d %B %Y}:"
