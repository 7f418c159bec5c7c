"""`sql/` as named statements: Python binds values and never builds text.

A file of `sql/queries/` holds statements, each under a line `-- name: what_it_does`. Comments are dropped on loading,
because psycopg takes a `%` in a comment for a placeholder too.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?|\s--\s.*$", re.MULTILINE)


def sql_folder() -> Traversable:
    """The wheel's own copy of `sql/`, else the one beside the package in a checkout."""
    packed = files("listener") / "sql"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "sql"


def read(path: str) -> str:
    """The text of one file of `sql/`, as it stands there."""
    return sql_folder().joinpath(*path.split("/")).read_text(encoding="utf-8")


@cache
def pieces(path: str) -> Mapping[str, str]:
    """The named pieces of one file of `sql/`, comments and all."""
    parts = _NAME.split(read(path))
    return MappingProxyType(dict(zip(parts[1::2], parts[2::2], strict=True)))


@cache
def load(module: str) -> Mapping[str, bytes]:
    """The statements of `sql/queries/{module}.sql` by name, as bytes, which psycopg takes as they are."""
    return MappingProxyType(
        {
            name: _COMMENT.sub("", body).strip().rstrip(";").encode()
            for name, body in pieces(f"queries/{module}.sql").items()
        }
    )
