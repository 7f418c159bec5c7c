"""The alarms and the dashboard in `deploy/` ask for metrics that there are, and each alarm rings when it should.

What Prometheus itself has to say (its parser, its evaluation) is asked of `promtool`; where there is none those tests
are skipped by name.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from listener.model import Mode, State
from listener.web import metrics
from listener.web.health import Health
from tests.unit.test_web import status

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
PROMTOOL = os.environ.get("LISTENER_PROMTOOL") or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool is found (Debian: package prometheus)")

# Of each alarm: the series that ring it, a value a minute. Beside them stand those of a replica that is well.
RING = {
    "ListenerDown": {'up{job="listener",instance="a"}': "0x9000"},
    "ListenerUnhealthy": {'listener_healthy{job="listener",instance="a"}': "0x9000"},
    "ListenerDatabaseDown": {'listener_database_up{job="listener",instance="a"}': "0x9000"},
    "ListenerReplicaLost": {'listener_replicas_lost{job="listener",instance="a"}': "1x9000"},
    "ListenerCaptureFailures": {'listener_capture_failures_total{job="listener",instance="a"}': "0+1x9000"},
    "ListenerCaptureGaps": {'listener_capture_gaps{job="listener",instance="a"}': "2x9000"},
    "ListenerMatchingBehind": {'listener_outbox_oldest_seconds{job="listener",instance="a"}': "31x9000"},
    "ListenerDeaf": {'listener_deaf{job="listener",instance="a"}': "1x9000"},
    "ListenerNotifyQueue": {'listener_notify_queue_usage{job="listener",instance="a"}': "0.2x9000"},
    "ListenerBacklogOld": {'listener_oldest_due_seconds{job="listener",instance="a"}': "601x9000"},
    "ListenerAccountStopped": {
        'listener_account_stopped{job="listener",instance="a",account="main",kind="token"}': "1x9000"
    },
    "ListenerPausedForLong": {'listener_pauses{job="listener",instance="a",scope="rule"}': "1x9000"},
    "ListenerUnknownMessages": {'listener_oldest_unknown_seconds{job="listener",instance="a"}': "901x9000"},
    "ListenerBrake": {'listener_brakes{job="listener",instance="a"}': "1x9000"},
    "ListenerSelectFails": {'listener_selects_failing{job="listener",instance="a"}': "1x9000"},
    "ListenerRulesFaults": {'listener_rules_faults{job="listener",instance="a"}': "3x9000"},
    "ListenerRejectedShare": {
        'listener_messages_finished{job="listener",instance="a",state="rejected"}': "0+1x9000",
        'listener_messages_finished{job="listener",instance="a",state="accepted"}': "0+5x9000",
    },
    "ListenerDatabaseUnconfirmed": {'listener_database_unconfirmed{job="listener",instance="a"}': "1x9000"},
    "ListenerMutedChanges": {'listener_muted_changes{job="listener",instance="a"}': "1x9000"},
}
WELL = {
    'up{job="listener",instance="a"}': "1x9000",
    'listener_healthy{job="listener",instance="a"}': "1x9000",
    'listener_database_up{job="listener",instance="a"}': "1x9000",
    'listener_capture_failures_total{job="listener",instance="a"}': "7x9000",
    'listener_account_stopped{job="listener",instance="a",account="main",kind="token"}': "0x9000",
    # a person's pause is no fault of the account, and of a phone nobody's matter
    'listener_account_stopped{job="listener",instance="a",account="main",kind="person"}': "1x9000",
    'listener_pauses{job="listener",instance="a",scope="phone"}': "1x9000",
    'listener_messages_finished{job="listener",instance="a",state="rejected"}': "0+1x9000",
    'listener_messages_finished{job="listener",instance="a",state="accepted"}': "0+20x9000",
}


def exported() -> dict[str, dict[str, set[str]]]:
    """Every metric that a replica answers with, and its labels with their values."""
    counts = {state.value: 0 for state in State}
    figures: dict[str, Any] = {
        "status": status(
            messages=counts,
            oldest_waiting_s=None,
            eta_s=0.0,
            capture_failures=0,
            rules={"version": 1, "ok": True, "faults": []},
        ),
        "oldest_unknown_s": None,
        "ended": {},
        "kinds": {},
        "gaps": [],
    }
    health = Health(moved=lambda: {"match": time.monotonic()}, notes=lambda: {"listening": True}, ready=lambda: True)
    text = metrics.exposition(metrics._fleet(figures, Mode.LIVE), metrics._process(health)).decode()
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


METRICS = exported()
# what Prometheus itself adds to every series
ADDED = {"job", "instance"}
OPEN_SETS = {"account", "part", "version", "mode"}


def asked(expression: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The metrics that an expression names, each with the labels and the values (`a|b`) it is asked by."""
    for found in re.finditer(r"\b((?:listener_\w+|up))\b(?:\{([^}]*)\})?", re.sub(r'"listener"', '""', expression)):
        yield found[1], re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"([^"]*)"', found[2] or "")


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", [rule["expr"] for rule in RULES] + dashboard_expressions())
def test_every_metric_asked_for_is_there_with_its_labels(expression: str) -> None:
    names = list(asked(expression))
    assert names, expression
    for name, labels in names:
        if name == "up":
            continue
        assert name in METRICS, name
        for label, values in labels:
            assert label in ADDED | METRICS[name].keys(), f"{name}{{{label}}}"
            if label not in ADDED | OPEN_SETS:
                assert set(values.split("|")) <= METRICS[name][label], f"{name}{{{label}={values}}}"
    known = ADDED.union(*(METRICS.get(name, {}) for name, _ in names))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", grouped)) <= known, grouped


def test_every_alarm_says_what_happened_and_what_to_do_in_both_languages() -> None:
    assert {rule["alert"] for rule in RULES} == RING.keys()
    for rule in RULES:
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "summary_vi", "do", "do_vi"}, rule["alert"]
        for name, text in rule["annotations"].items():
            assert len(text) > 20, (rule["alert"], name)
            assert name.endswith("_vi") == bool(re.search("[ăâđêôơưạảấầậắằẵặếềểễệốồổộớờởợứừửữự]", text)), text
            for label in re.findall(r"\$labels\.(\w+)", text):
                assert label in ADDED or any(label in METRICS[n] for n, _ in asked(rule["expr"])), label


def test_every_fault_that_metrics_tell_of_has_an_alarm_or_a_panel() -> None:
    alarmed = {name for rule in RULES for name, _ in asked(rule["expr"])}
    drawn = {name for expression in dashboard_expressions() for name, _ in asked(expression)}
    # told by others: readiness is for load balancers
    assert METRICS.keys() - alarmed - drawn == {"listener_ready"}


def test_every_metric_is_named_in_the_readme() -> None:
    readme = (DEPLOY.parent / "README.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`(listener_\w+)(?:\{[^}]*\})?`", readme.split("Metrics, for Prometheus:")[1].split("\n## ")[0])
    )
    assert named == METRICS.keys()


def test_the_dashboards_panels_stand_beside_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"].strip()
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_reads_the_alarms_and_the_dashboards_questions(tmp_path: Path) -> None:
    promtool("check", "rules", str(ALERTS))
    questions = [
        {"record": f"q:{n}", "expr": expression.replace("$__range", "1h")}
        for n, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "questions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": questions}]}))
    promtool("check", "rules", str(file))


@needs_promtool
def test_each_alarm_rings_for_its_fault_alone_and_none_while_all_is_well(tmp_path: Path) -> None:
    rules = {rule["alert"]: rule for rule in RULES}
    minutes = {name: _minutes(rule["for"]) + 70 for name, rule in rules.items()}
    cases: list[dict[str, Any]] = [_case("well", WELL, 600, dict.fromkeys(RING, False), rules)]
    for name, series in RING.items():
        others = {k: v for k, v in WELL.items() if k not in series}
        cases.append(_case(name, others | series, minutes[name], {other: other == name for other in RING}, rules))
    file = tmp_path / "test.yml"
    test = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": cases}
    file.write_text(yaml.safe_dump(test, allow_unicode=True))
    promtool("test", "rules", str(file))


def _minutes(wait: str) -> int:
    return int(wait[:-1]) * {"m": 1, "h": 60}[wait[-1]]


def _case(
    name: str, series: dict[str, str], minute: int, rings: dict[str, bool], rules: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One case of promtool's: these series, and which alarms ring at that minute."""

    def expected(alert: str) -> list[dict[str, Any]]:
        labels = {} if alert == "ListenerDown" else {"job": "listener"}
        if alert == "ListenerUnhealthy":
            labels["instance"] = "a"
        if alert == "ListenerAccountStopped":
            labels |= {"account": "main", "kind": "token"}
        said = {}
        for key, text in rules[alert]["annotations"].items():
            filled = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
            said[key] = filled.replace("{{ $value | humanizePercentage }}", "16.67%")
        return [{"exp_labels": {**labels, **rules[alert]["labels"]}, "exp_annotations": said}]

    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected(alert) if on else []}
            for alert, on in rings.items()
        ],
    }
