"""`listener test`: the tests that stand beside the rules, for people, for programs and for CI servers."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from listener.cli.common import asynchronous, fail, output_option, print_json, rules_option
from listener.errors import ListenerError, RulesError
from listener.rules import Rules, RuleTest, Source, build, load, read_text
from listener.rules.trial import Trial, holds_tests_alone, run, tests_of, untested
from listener.settings import read_settings


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@rules_option
@click.option(
    "--junit", type=click.Path(dir_okay=False, path_type=Path), help="Also write a JUnit report to this file."
)
@output_option
@asynchronous
async def test(files: tuple[Path, ...], rules_path: Path | None, junit: Path | None, output: str) -> None:
    """Run the tests of the rules file, and of each FILE: a rules file of its own, or `tests:` alone."""
    try:
        trials, idle = _run_all(files, rules_path)
    except RulesError as error:
        if output == "json":
            print_json({"ok": False, "faults": [asdict(fault) for fault in error.faults], "tests": [], "untested": []})
        else:
            click.echo(str(error))
        raise fail("no test was run: the file has faults", 1) from None
    failed = [trial for trial in trials if not trial.passed]
    if junit is not None:
        _write(junit, junit_report(trials))
    if output == "json":
        shown = [{**asdict(trial), "ok": trial.passed} for trial in trials]
        print_json({"ok": not failed, "faults": [], "tests": shown, "untested": idle})
    else:
        for trial in failed:
            click.echo(f"FAILED {trial.file}:{trial.line}:{trial.col}: {trial.name}")
            for difference in trial.differences:
                click.echo("  " + difference.replace("\n", "\n  "))
        click.echo(f"{len(trials) - len(failed)} of {len(trials)} tests passed")
    for rule in idle:
        click.echo(f"note: no test expects an SMS of the rule {rule}", err=True)
    if failed:
        raise SystemExit(1)


def _write(path: Path, report: bytes) -> None:
    try:
        path.write_bytes(report)
    except OSError as error:
        raise ListenerError(f"--junit: the file cannot be written ({error.strerror})") from None


def _run_all(files: Sequence[Path], rules_path: Path | None) -> tuple[list[Trial], list[str]]:
    """The trials, and the rules that none of them expects a message of. Raises `RulesError`.

    Each rules file runs its own tests; a file of tests alone runs on the rules file before it, else on the usual one.
    """
    documents = [load(read_text(file), str(file)) for file in files]
    if rules_path is not None or not documents or holds_tests_alone(documents[0]):
        usual = read_settings(rules=rules_path).rules
        documents.insert(0, load(read_text(usual), str(usual)))
    trials: list[Trial] = []
    tried: list[tuple[Rules, list[RuleTest]]] = []
    beside: Source | None = None
    for document in documents:
        if beside is not None and holds_tests_alone(document):
            tests = tests_of(document, beside)
        else:
            rules = build(document)
            beside, tests = document, rules.tests
            tried.append((rules, []))
        rules, mine = tried[-1]
        mine += tests
        trials += run(rules, tests, document)
    return trials, [rule for rules, tests in tried for rule in untested(rules, tests)]


def junit_report(trials: Sequence[Trial]) -> bytes:
    """The outcome as JUnit XML, one suite a file."""
    root = ET.Element("testsuites", name="listener test", tests=str(len(trials)), failures=str(_failures(trials)))
    for file in dict.fromkeys(trial.file for trial in trials):
        mine = [trial for trial in trials if trial.file == file]
        suite = ET.SubElement(
            root, "testsuite", name=file, tests=str(len(mine)), failures=str(_failures(mine)), errors="0", skipped="0"
        )
        for trial in mine:
            case = ET.SubElement(
                suite, "testcase", classname=trial.watch, name=trial.name, file=trial.file, line=str(trial.line)
            )
            if not trial.passed:
                failure = ET.SubElement(case, "failure", message=trial.differences[0].split("\n", 1)[0])
                failure.text = "\n".join(trial.differences)
    ET.indent(root)
    report: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return report


def _failures(trials: Sequence[Trial]) -> int:
    return sum(not trial.passed for trial in trials)
