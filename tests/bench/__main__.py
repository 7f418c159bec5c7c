"""`python -m tests.bench NAME`: a table on stderr, JSON on stdout, exit 1 when a figure misses its bound."""

import argparse
import importlib
import json
import sys
from dataclasses import asdict

from tests.bench.report import Report

NAMES = ("capture", "latency", "match", "deliver", "idle", "queue", "steady", "accounts")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--short", action="store_true", help="a handful of rows: proves that it runs, measures nothing")
    options = parser.parse_args(arguments)
    report: Report = importlib.import_module(f"tests.bench.{options.name}").run(short=options.short)
    print(report.table(), file=sys.stderr)
    print(json.dumps(asdict(report) | {"good": report.good}, indent=2))
    return 0 if report.good or options.short else 1


if __name__ == "__main__":
    sys.exit(main())
