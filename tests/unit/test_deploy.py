"""`deploy/`: the unit is one that systemd takes and hardens, the image holds what it needs and no more."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from listener.cli import main
from listener.notify import watchdog_seconds
from listener.service import seconds_to_stop
from listener.settings import Settings, read_settings
from listener.web.health import STALE
from tests.support import unit

ROOT = Path(__file__).parents[2]
VERBS = main.list_commands(click.Context(main))
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
GUIDE = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
# Vietnamese, English
HALVES = GUIDE.split("\n---\n")
# out of ten; systemd calls what is below 2 well protected
EXPOSURE = 2.0

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)


@systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    # A program that is not there would be a fault, and where it is there is not for this machine to say.
    text = unit.UNIT.read_text(encoding="utf-8").replace("/opt/listener/bin/listener", "/bin/true")
    (tmp_path / unit.UNIT.name).write_text(text, encoding="utf-8")
    verdict = analyze("verify", "--man=no", tmp_path / unit.UNIT.name)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")
    (tmp_path / unit.UNIT.name).write_text(text.replace("WatchdogSec=3min", "WatchdogSec=soon"), encoding="utf-8")
    assert "soon" in analyze("verify", "--man=no", tmp_path / unit.UNIT.name).stderr


@systemd
def test_the_unit_is_well_protected() -> None:
    verdict = analyze("security", "--offline=true", "--no-pager", unit.UNIT)
    score = re.search(r"Overall exposure level for listener.service: ([\d.]+)", verdict.stdout)
    assert score is not None, verdict.stderr
    assert float(score[1]) < EXPOSURE, verdict.stdout


def test_the_times_of_the_unit_fit_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unit.seconds("TimeoutStopSec") > seconds_to_stop(Settings())
    assert unit.settings()["StartLimitIntervalSec"] == ["0"]
    monkeypatch.setenv("WATCHDOG_USEC", str(int(unit.seconds("WatchdogSec") * 1e6)))
    # A database that hangs delays a loop's turn by up to four times of what makes it ill.
    assert (watchdog_seconds() or 0) / 2 > 4 * STALE


def test_every_secret_of_the_unit_is_a_credential_and_every_name_is_read(tmp_path: Path) -> None:
    credentials = {value.split(":")[0] for value in unit.settings()["LoadCredential"]}
    environment = unit.environment(tmp_path)
    files = {value for name, value in environment.items() if name.endswith("_FILE")}
    assert files == {str(tmp_path / name) for name in credentials}
    (tmp_path / "database-url").write_text("host=db.example\n")
    (tmp_path / "admin-token").write_text("made-up-token\n")
    settings = read_settings(environment)
    assert (settings.database_url, settings.admin_token) == ("host=db.example", "made-up-token")
    assert settings.rules == Path("/etc/listener/rules.yaml")
    assert "CARESOFT_TOKEN_FILE" in environment
    assert "${CARESOFT_TOKEN}" in (ROOT / "rules.yaml").read_text(encoding="utf-8")


def test_the_image_is_built_from_all_that_the_wheel_is_made_of() -> None:
    build, _final = DOCKERFILE.split("\nFROM ")[1:]
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (.*) \S+$", build, re.MULTILINE) for word in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "pyproject.toml"}
    assert needed | set(project["project"]["license-files"]) == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_nobody_in_particular_and_asks_after_its_health() -> None:
    final = DOCKERFILE.split("\nFROM ")[2]
    assert re.search(r"^USER (?!root|0)\w+$", final, re.MULTILINE)
    assert "pip uninstall" in final
    assert not re.search(r"apt-get|pip install|gcc", final)
    (check,) = re.findall(r'^HEALTHCHECK .* CMD \["listener", "(\w+)"\]$', final, re.MULTILINE)
    assert check in VERBS
    (default,) = re.findall(r'^CMD \["(\w+)"\]$', final, re.MULTILINE)
    assert default == "run"


def test_the_guide_says_the_same_in_both_languages() -> None:
    assert len(HALVES) == 2
    counts = [
        [len(re.findall(pattern, half, re.MULTILINE)) for pattern in (r"^## \d+\. ", r"^```sh$", r"^\| ", r"^ *\d+\. ")]
        for half in HALVES
    ]
    assert counts[0] == counts[1]
    # The same commands, but for what is told in words: made-up names and what comes after a #.
    commands = [
        [re.sub(r"\s+#.*|MAT_KHAU|PASSWORD|TOKEN_CUA_CARESOFT|THE_TOKEN_FROM_CARESOFT", "", c) for c in _shell(half)]
        for half in HALVES
    ]
    assert commands[0] == commands[1]


def test_the_guide_names_every_alarm_and_no_verb_file_or_setting_that_is_not_there() -> None:
    alarms = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for half in HALVES:
        assert re.findall(r"^\| `(Listener\w+)` \|", half, re.MULTILINE) == alarms
        said = [*_shell(half), *re.findall(r"`([^`\n]*)`", half)]
        verbs = {m[1] for line in said if (m := re.match(r"(?:.*&& |LISTENER_\S+ )?listener ([a-z]+)", line))}
        assert len(verbs) >= 10
        assert verbs <= {*VERBS}, verbs
        for name in set(re.findall(r"LISTENER_[A-Z_]+[A-Z]", half)):
            assert name.removesuffix("_FILE") in readme, name
    for link in re.findall(r"\]\((\.\./[^)#]+)", GUIDE):
        assert (ROOT / "deploy" / link).exists(), link


def _shell(text: str) -> list[str]:
    """The lines of all blocks of commands."""
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
