"""Registered wordings: what was registered is what may be sent."""

from time import process_time

import pytest

from listener.rules.approved import could_be_approved, is_approved


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("ACME: Don DH42 da giao", "ACME: Don {ma} da giao"),
        ("ACME: TK A1 con 90.000 VND", "ACME: TK {so} con {tien} VND"),
        ("ACME: TK con con con 1 VND", "ACME: TK {} con {} VND"),
        ("khong co o trong", "khong co o trong"),
        ("a", "{x}"),
        ("aXbXc", "a{1}b{2}c"),
    ],
)
def test_fits(text: str, wording: str) -> None:
    assert is_approved(text, [wording])


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("ACME: Don  da giao", "ACME: Don {ma}  da giao"),
        ("ACME: Don da giao", "ACME: Don {ma} da giao"),
        ("ACME: TK A1 con 90.000", "ACME: TK {so} con {tien} VND"),
        ("x ACME", "ACME"),
        ("", "{x}"),
        ("ab", "a{1}b"),
        ("axb!", "a{1}b"),
    ],
)
def test_does_not_fit(text: str, wording: str) -> None:
    assert not is_approved(text, [wording])


def test_one_of_several_is_enough() -> None:
    assert is_approved("b 1", ["a {x}", "b {x}"])
    assert not is_approved("c 1", ["a {x}", "b {x}"])


def test_a_hostile_wording_costs_no_time() -> None:
    began = process_time()
    assert not is_approved("a" * 1000, ["{x}a" * 300 + "b"])
    assert process_time() - began < 0.1


@pytest.mark.parametrize(
    ("pieces", "wording", "could"),
    [
        (["ACME: "], "ACME: {x}", False),
        (["ACME: ", ""], "ACME: {x}", True),
        (["ACME: ", " VND"], "ACME: TK {x} con {y} VND", True),
        (["ACME: ", " VND"], "ACME: TK {x} con {y} dong", False),
        (["", ""], "Da giao", True),
        (["Don ", ""], "Da giao", False),
        (["a", "b"], "ab", True),
        (["a", "b"], "a{x}b", True),
        (["ab"], "a{x}b", False),
    ],
)
def test_what_free_values_could_make(pieces: list[str], wording: str, could: bool) -> None:
    assert could_be_approved(pieces, [wording]) is could
