"""Every fault that must be survived is claimed by a test, in the docstring of it or of its module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
# A: the process; B: PostgreSQL; C: the gateway; D: threads; E: data and rules; F: clocks; G: security; H: load
CASES = frozenset(range(1, 85))
_CLAIM = re.compile(r"\bF(\d\d)(?: to F(\d\d))?")


def claims() -> Iterator[int]:
    """The cases that docstrings name: `F05`, `F10 to F14`."""
    for file in TESTS.rglob("test_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert any(test.name.startswith("test_") for test in tests), file
        for node in (tree, *tests):
            for first, last in _CLAIM.findall(ast.get_docstring(node) or ""):
                yield from range(int(first), int(last or first) + 1)


def test_every_fault_is_claimed_by_a_test() -> None:
    assert sorted(CASES - set(claims())) == []
