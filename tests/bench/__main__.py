"""`python -m tests.bench NAME...`: a table on stderr, JSON on stdout, exit 1 when a figure misses its bound.

Without a name: all of them, one after the other, which takes about an hour.
"""

import argparse
import importlib
import json
import sys
from dataclasses import asdict

from tests.bench import readme
from tests.bench.report import Report

NAMES = ("capture", "latency", "match", "deliver", "whole", "peers", "idle", "queue", "steady", "accounts")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--short", action="store_true", help="a handful of rows: proves that it runs, measures nothing")
    parser.add_argument("--readme", action="store_true", help="put what was measured into the table of README.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    good = True
    for name in options.names or NAMES:
        report: Report = importlib.import_module(f"tests.bench.{name}").run(short=options.short)
        print(report.table(), file=sys.stderr, flush=True)
        print(json.dumps(asdict(report) | {"good": report.good}, indent=2), flush=True)
        if options.readme:
            readme.write(report)
        good = good and report.good
    return 0 if good or options.short else 1


if __name__ == "__main__":
    sys.exit(main())
