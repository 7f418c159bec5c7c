"""What README.md says of the code is true: tests it names exist, verbs it lists exist, the word lists agree."""

import re
from pathlib import Path

from listener.cli import main
from listener.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_promise_names_tests_that_exist() -> None:
    promises = README.split("## What is promised")[1].split("**Not promised:**")[0]
    named = re.findall(r"`([a-z]+/test_\w+\.py)::(test_\w+)`", promises)
    assert len(named) >= 20
    for file, test in named:
        assert re.search(rf"def {test}\b", (ROOT / "tests" / file).read_text(encoding="utf-8")), f"{file}::{test}"
    for sentence in promises.split("\n- ")[1:]:
        assert "::test_" in sentence, sentence


def test_every_verb_is_listed_and_every_listed_verb_exists() -> None:
    table = README.split("| verb | does |")[1].split("`-o json`")[0]
    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert re.search(rf"[`|\\]{name}\b", table), name


def test_the_environment_is_listed() -> None:
    for name in (
        "DATABASE_URL",
        "RULES",
        "CARESOFT_URL",
        "HTTP",
        "ADMIN_TOKEN",
        "MODE",
        "LOG",
        "DOORBELL",
        "AUTO_INSTALL",
        "CARESOFT_PRIVATE",
        "RETENTION",
    ):
        assert f"LISTENER_{name}`" in README, name
    assert Settings().caresoft_url in README
