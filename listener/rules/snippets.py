"""SQL that stands in the file: one statement or one condition, looked at closely enough to be put inside our own.

This is no parser: PostgreSQL judges the rest when `check --db` prepares it.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from listener.rules.forms import Text, refuse

# What a `;` or a bracket may hide in: strings, quoted names, dollar quotes, comments (nested ones are not looked into).
_PIECES = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string> \b[eE]'(?:[^'\\]|\\.|'')*+(?P<end1>'?) | '(?:[^']|'')*+(?P<end2>'?) | "(?:[^"]|"")*+(?P<end3>"?) )
    | (?P<tag>\$(?:[A-Za-z_]\w*)?\$) .*? (?:(?P=tag)|(?P<open>\Z))
    | (?P<mark> [;()] )
    """,
    re.VERBOSE | re.DOTALL,
)
# `%%`, or the name in `%(name)s`
PLACEHOLDER = re.compile(r"%%|%\(([^()%]+)\)s")


def _look(sql: str, *, comments: bool) -> None:
    depth = 0
    for piece in _PIECES.finditer(sql):
        if piece["comment"] and not comments:
            raise refuse("a comment has no place in a condition", "put it behind a # after the value")
        if piece["string"] and not (piece["end1"] or piece["end2"] or piece["end3"]):
            raise refuse("a quote is opened in this SQL and not closed", "close it")
        if piece["open"] is not None:
            raise refuse("a $ quote is opened in this SQL and not closed", "close it")
        match piece["mark"]:
            case ";":
                raise refuse("only one statement can stand here", "remove the `;` and what follows it")
            case "(":
                depth += 1
            case ")":
                depth -= 1
                if depth < 0:
                    break
    if depth:
        raise refuse("the brackets ( ) of this SQL do not pair", "count them")


def parameters(sql: str) -> tuple[str, ...]:
    """The names of all `%(name)s` in a statement, each once, in their order."""
    return tuple(dict.fromkeys(name for name in PLACEHOLDER.findall(sql) if name))


def _statement(sql: str) -> str:
    """Without the closing `;`, so that it can stand inside another statement."""
    sql = sql.strip().removesuffix(";").rstrip()
    if not sql:
        raise refuse("this SQL is empty", "write a statement")
    _look(sql, comments=True)
    for piece in _PIECES.finditer(sql):
        if not piece["mark"] and parameters(piece[0]):
            raise refuse(
                "%(column)s in quotes or in a comment is no value of the row", "write it without the quotes around it"
            )
    # psycopg looks for % in strings and comments too.
    if "%" in PLACEHOLDER.sub("", sql):
        raise refuse("a % here is neither %(column)s nor %%", "write %(column)s for a value of the row, %% for one %")
    return sql


def _query(sql: str) -> str:
    sql = _statement(sql)
    if not re.match(r"(?:select|with|values|table)\b|\(", sql, re.IGNORECASE):
        raise refuse("expected a query that only reads", "begin it with SELECT")
    return sql


def _condition(sql: str) -> str:
    _look(sql, comments=False)
    return sql.strip()


Statement = Annotated[Text, AfterValidator(_statement)]
Query = Annotated[Text, AfterValidator(_query)]
Condition = Annotated[Text, AfterValidator(_condition)]
