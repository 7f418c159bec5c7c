"""The reasons that messages and verdicts keep, and the commonest faults of a rules file, in Vietnamese.

Both are written down in English, once; here each is known by its shape. What is not known (the gateway's own words,
a person's) stays as it is.
"""

import re
from collections.abc import Callable, Sequence

from listener.phrases import REASONS
from listener.phrases_of_files import FAULTS

_PIECES = {"": "(?:(?!; ).)+?", "*": ".+?", "!": ".+?", "|": ".+?", "#": "[0-9]+"}


def _known(english: str, vietnamese: str) -> tuple[re.Pattern[str], str, str]:
    """`{x}` stands for a piece that is kept, `{x*}` for one that may hold `; `, `{x|}` for values joined by "or",
    `{x#}` for digits alone, and `{x!}` for one that is a reason itself."""
    shape = re.sub(r"\\\{(\w+)(?:\\?([*!|#]))?\\\}", lambda m: f"(?P<{m[1]}>{_PIECES[m[2] or '']})", re.escape(english))
    return re.compile(shape, re.DOTALL), english, vietnamese


_KNOWN = tuple(_known(english, vietnamese) for english, vietnamese in (*REASONS, *FAULTS))
_KEPT = re.compile(r"\{(\w+)[*#]?([!|]?)\}")
# what may be several pieces between `; `, and how many are tried together
_JOINED = tuple(known for known in _KNOWN if re.search(r"; |[*!|]\}", known[1]))
_TOGETHER = 5
# places, each with a colon, that may stand before a reason: `new.items | map: an item | vnd: …`
_PLACES = 3


def in_vietnamese(reason: str) -> str:
    """The reason in Vietnamese, as far as it is known; several, joined by `; `, each by itself."""
    return _told(reason, True, str)


def without_values(reason: str, vietnamese: bool) -> str:
    """What is ours of a reason: what stands for a value, and what is not known, is `…`."""
    return _told(reason, vietnamese, lambda _: "…")


def _told(reason: str, vietnamese: bool, kept: Callable[[str], str]) -> str:
    """Reasons in one of the languages; `kept` is what is shown of a piece that is not ours."""
    told, pieces = [], reason.split("; ")
    while pieces:
        n, said = _first(pieces, vietnamese, kept) or (1, kept(pieces[0]))
        told.append(said)
        del pieces[:n]
    return "; ".join(told)


def _first(
    pieces: Sequence[str], vietnamese: bool, kept: Callable[[str], str], places: int = _PLACES
) -> tuple[int, str] | None:
    """How many of the pieces are the first reason, and what it says; None when it is not known."""
    for n in range(min(len(pieces), _TOGETHER), 0, -1):
        reason = "; ".join(pieces[:n])
        for pattern, *both in _KNOWN if n == 1 else _JOINED:
            if found := pattern.fullmatch(reason):
                return n, _KEPT.sub(lambda piece: _piece(found[piece[1]], piece[2], vietnamese, kept), both[vietnamese])
    place, mark, why = pieces[0].partition(": ")
    if mark and places and (behind := _first([why, *pieces[1:]], vietnamese, kept, places - 1)):
        return behind[0], f"{kept(place)}: {behind[1]}"
    return None


def _piece(text: str, mark: str, vietnamese: bool, kept: Callable[[str], str]) -> str:
    match mark:
        case "!":
            return _told(text, vietnamese, kept)
        case "|" if vietnamese:
            return kept(text.replace(" or ", " hoặc "))
        case _:
            return kept(text)
