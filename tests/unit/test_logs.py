"""Log lines: one event one line, whatever is in it; told once and counted; every event is in README.md."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from listener.logs import QUIET, Once, neutral

ROOT = Path(__file__).parents[2]
PHONE = "0912345678"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc", "a\\u000ab\\u000d\\u000ac"),
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\u0085d"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        (f"to {PHONE}.", "to 091***678."),
        ("+84 912 345 678", "+84***678"),
        ("84912345678", "849***678"),
        ("2026-11-22T10:00:00+07:00 at 127.0.0.1:8080", "2026-11-22T10:00:00+07:00 at 127.0.0.1:8080"),
        ("Đơn hàng số 12", "Đơn hàng số 12"),
        ("x" * 600, "x" * 497 + "..."),
    ],
)
def test_hostile_text_is_one_harmless_line(text: str, shown: str) -> None:
    assert neutral(text) == shown


def test_a_repeated_warning_is_told_once_and_counted() -> None:
    clock = [0.0]
    once = Once(lambda: clock[0])

    def told(method: str = "warning", **event: object) -> "dict[str, object] | None":
        try:
            return dict(once(None, method, event))
        except structlog.DropEvent:
            return None

    assert told(event="lost", about="a") == {"event": "lost", "about": "a"}
    for _ in range(7):
        clock[0] += 1
        assert told(event="lost", about="a") is None
    assert told(event="lost", about="b") is not None
    assert told("info", event="started") == told("info", event="started") == {"event": "started"}
    clock[0] += QUIET
    assert told(event="lost", about="a") == {"event": "lost", "about": "a", "repeated": 7}
    for n in range(500):
        told(event="lost", about=str(n))
    assert len(once._told) <= 200


SPEAK = """
import logging, structlog, sys
from listener.logs import configure
configure(sys.argv[1])
structlog.get_logger().warning("one", said="a\\nb \\x1b[31m 0912345678")
error = (KeyError, KeyError("canary"), None)
logging.getLogger("asyncio").error("Task exception: 0912345678 DETAIL: canary", exc_info=error)
raise ValueError("canary 0912345678")
"""


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_process_says_each_thing_on_one_line_and_nobodys_words(style: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, style], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert "canary" not in done.stderr
    assert "0912345678" not in done.stderr
    assert "\x1b" not in done.stderr
    for line, event in zip(lines, ("one", "library", "crashed"), strict=True):
        assert event in line
    if style == "json":
        assert json.loads(lines[2])["error"] == "ValueError"


def spoken() -> Iterator[tuple[str, frozenset[str], str]]:
    """Every event in the code, the fields it is given, and where."""
    for file in sorted((ROOT / "listener").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, owner = node.func.attr, node.func.value
            ours = isinstance(owner, ast.Name) and owner.id == "log" and name in ("info", "warning", "error")
            indirect = name == "_say" and isinstance(owner, ast.Name) and owner.id == "self"
            plain = ast.unparse(owner) == "structlog.get_logger()" and name in ("warning", "error")
            if not (ours or indirect or plain):
                continue
            words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            events = [w for w in words if not indirect or re.fullmatch(r"[a-z]+(_[a-z]+)+", w)]
            for event in events[:1]:
                fields = frozenset(k.arg or "…" for k in node.keywords)
                yield event, fields, f"{file.name}:{node.lineno}"


def test_every_event_is_in_the_readme_with_its_fields() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| event | fields | says |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", table, re.MULTILINE)
    listed = {event: frozenset(re.findall(r"`([a-z_]+)`", fields)) for event, fields in rows}
    assert len(listed) == len(rows), "an event stands there twice"
    found = {event for event, _, _ in spoken()}
    assert found >= {"started", "lease_failed", "settle_failed", "select_failed", "task_died", "day_dropped"}
    assert found == set(listed)
    assert table.count("\n| `") == len(listed), "an event is listed twice"
    for event, fields, where in spoken():
        # `_say` and `**counts` name theirs elsewhere
        assert fields - {"…"} <= listed[event], f"{event} at {where}"


def test_no_log_call_is_given_a_whole_exception_or_a_row() -> None:
    """An exception of a library holds what it was about; `describe` and a class's name do not."""
    bad = re.compile(r"(error|why|reason)=(str\(|repr\()|exc_info|\.exception\(|=row[,)]|=text\b|=phone\b|=token\b")
    for file in (ROOT / "listener").rglob("*.py"):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert not ("log." in line and bad.search(line)), f"{file.name}:{number}: {line}"
