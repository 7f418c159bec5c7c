"""What a form says, whoever wrote it: a browser's own limits are nobody else's."""

from collections.abc import Mapping

_LONGEST_REASON = 300


def reason(form: Mapping[str, object]) -> str | None:
    """Why somebody acts, in their own words; None for none."""
    return str(form.get("reason", "")).strip()[:_LONGEST_REASON] or None


def number(text: object) -> int | None:
    """A number of 0 and above that PostgreSQL takes for a `bigint`; None for anything else."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 19 else None
