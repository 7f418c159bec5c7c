"""The small written forms of the file (`6h`, `12/s`, `21:00`, `public.orders`), each checked once and made a value.

Each form is an `Annotated` type: what it becomes, how it is refused in plain words, and its JSON Schema.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from listener.text import UNCLEAR_DOT, WITHOUT_DOT, has_unclear_dot
from listener.words import nearest

T = TypeVar("T")

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
MOST = 200  # items in one list
_LONGEST = timedelta(days=366)  # keeps every `now + duration` inside what a date can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often an account may be called: `count` requests in `seconds`."""

    count: Decimal
    seconds: int

    @property
    def per_second(self) -> float:
        return float(self.count / self.seconds)


_PERIODS = {
    timedelta(days=1): "day",
    timedelta(hours=1): "h",
    timedelta(minutes=1): "min",
    timedelta(seconds=1): "s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `count` messages in any `per`."""

    count: int
    per: timedelta

    def __str__(self) -> str:
        return f"{self.count}/{_PERIODS.get(self.per, self.per)}"


def refuse(message: str, hint: str = "", child: str = "") -> PydanticCustomError:
    """A refusal for people: never holds the value itself. `child` is the key inside a mapping that it is about."""
    return PydanticCustomError("rules", "{message}", {"message": message, "hint": hint, "child": child})


def kind(value: object) -> str:
    """What a person would call the value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a number"
        case Decimal():
            return "a fraction"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"


def _form(pattern: str, expected: str, such_as: str, make: Callable[[re.Match[str]], T]) -> PlainValidator:
    """A validator for text of one shape. What `make` has made already (a value built in Python) passes."""
    compiled = re.compile(pattern)
    hint = f"write it as {such_as}"

    def check(value: Any) -> Any:
        if isinstance(value, str):
            found = compiled.fullmatch(value)
            if found is None:
                raise refuse(f"expected {expected}", hint)
            return make(found)
        if value is None or isinstance(value, bool | int | Decimal | list | dict):
            raise refuse(f"expected {expected}, found {kind(value)}", hint)
        return value

    return PlainValidator(check)


def _shape(pattern: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$", **more})


def _duration(found: re.Match[str]) -> timedelta:
    length = timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    if length > _LONGEST:
        raise refuse("a time longer than 366 days is not kept", "write 366d or less")
    return length


def _rate(found: re.Match[str]) -> Rate:
    count = Decimal(found[1])
    if not count:
        raise refuse("a rate of 0 would send nothing", "use `enabled: false` on a rule, or `listener pause`")
    return Rate(count=count, seconds=_SECONDS[found[2]])


def _cap(found: re.Match[str]) -> Cap:
    return Cap(count=int(found[1]), per=timedelta(seconds=_SECONDS[found[2]]))


_DURATION = "([1-9][0-9]{0,7})([smhd])"
_RATE = r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/(s|m|min|h|hour|d|day)"
_CAP = "([1-9][0-9]{0,8})/(s|m|min|h|hour|d|day)"
_TIME = "([01]?[0-9]|2[0-3]):([0-5][0-9])"

Duration = Annotated[timedelta, _form(_DURATION, "a length of time", "30s, 5m, 6h or 2d", _duration), _shape(_DURATION)]
RateForm = Annotated[Rate, _form(_RATE, "a rate", "12/s or 700/m", _rate), _shape(_RATE)]
CapForm = Annotated[Cap, _form(_CAP, "a count in a time", "3/day or 500/h", _cap), _shape(_CAP)]
TimeOfDay = Annotated[time, _form(_TIME, "a time of day", "21:00", lambda m: time(int(m[1]), int(m[2]))), _shape(_TIME)]


def _zone(found: re.Match[str]) -> str:
    try:
        return ZoneInfo(found[0]).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Only for a slip of the pen: to be led from GMT+7 to GMT+0 would be worse than no help.
        near = nearest(found[0], available_timezones(), likeness=0.9)
        raise refuse("unknown time zone", f"did you mean {near}?" if near else "write it as Asia/Ho_Chi_Minh") from None


_ZONE = "[A-Za-z][A-Za-z0-9_+/-]{0,59}"
Zone = Annotated[str, _form(_ZONE, "a time zone", "Asia/Ho_Chi_Minh", _zone), _shape(_ZONE)]


def _moment(found: re.Match[str]) -> datetime:
    try:
        moment = datetime.fromisoformat(found[0])
    except ValueError:
        raise refuse("there is no such date or time", "write it as 2026-11-22T10:00:00+07:00") from None
    return moment


_MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})"
Moment = Annotated[
    datetime,
    _form(_MOMENT, "a date and time with its zone", "2026-11-22T10:00:00+07:00", _moment),
    _shape(_MOMENT),
]

# Names become SQL identifiers (with a prefix, under PostgreSQL's 63 bytes) and metric labels.
NAME = "[a-z][a-z0-9_]{0,39}"


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value):
        hint = "choose another"
        raise refuse("a name is made of a-z, 0-9 and _, begins with a letter and has at most 40 characters", hint)
    return value


Name = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"}),
]
# Longer than any SMS or statement; it bounds what the checks behind it must chew.
Text = Annotated[str, StringConstraints(strict=True, pattern=r"\S", max_length=20_000)]

_UNQUOTED = r"[^\W\d][\w$]*"
_QUOTED = r'"(?:[^"]|"")+"'
_TABLE = rf"(?:{_UNQUOTED}|{_QUOTED})(?:\.(?:{_UNQUOTED}|{_QUOTED}))?"


def _identifier(value: str) -> str:
    """PostgreSQL would cut a longer name short and so mean another one."""
    if len(value.encode()) > 63:
        raise refuse("a name in PostgreSQL has at most 63 bytes", "look how it is called in the database")
    if "\0" in value:
        raise refuse("a name in PostgreSQL holds no NUL", "remove it")
    return value


def _table(value: str) -> str:
    if not re.fullmatch(_TABLE, value):
        raise refuse(
            "expected a table as SQL writes it, such as public.orders",
            """put names with capitals or blanks in double quotes inside single ones: '"KeToan"."SoDu"'""",
        )
    for part in re.findall(rf"{_UNQUOTED}|{_QUOTED}", value):
        _identifier(part.strip('"').replace('""', '"'))
    return value


Column = Annotated[Text, AfterValidator(_identifier)]
Table = Annotated[Text, AfterValidator(_table)]


_DOMAIN = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"


def _domain(value: str) -> str:
    if not re.fullmatch(_DOMAIN, value):
        raise refuse("expected the account's short name", "the last part of its login address, such as acme")
    return value


Domain = Annotated[Text, AfterValidator(_domain), _shape(_DOMAIN)]


def _token(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", value):
        # The value may be the secret itself, so nothing of it is told.
        raise refuse(
            "a token does not stand in this file", "write ${NAME} for an environment variable, or use token_file:"
        )
    return value


Token = Annotated[
    str, PlainValidator(_token), WithJsonSchema({"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"})
]


def _service_id(value: Any) -> str:
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,18}", str(value)):
        raise refuse("expected the service's number", "write it as 12")
    return str(int(value))


ServiceId = Annotated[
    str,
    PlainValidator(_service_id),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,18}$"}]}),
]


_PHONE = "0[35789][0-9]{8}"


def _phone(value: str) -> str:
    if not re.fullmatch(_PHONE, value):
        raise refuse("expected a mobile number of 10 digits", 'write it as "0980000000"')
    return value


Phone = Annotated[Text, AfterValidator(_phone), _shape(_PHONE)]


def _message(value: str) -> str:
    # Decree 91/2020/ND-CP: an advertising SMS begins with one of these, and needs consent and hours we do not keep.
    if re.match(r"\s*\[(?:QC|AD)\]", value, re.IGNORECASE):
        raise refuse("an advertising message is not sent from here", "only customer care: remove the rule")
    return value


Message = Annotated[Text, AfterValidator(_message)]


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise refuse(
            f"expected a number, found {kind(value)}",
            "write digits alone, without quotes or dots between thousands: 1234567",
        )
    number = Decimal(value)
    if has_unclear_dot(number):
        raise refuse(UNCLEAR_DOT, WITHOUT_DOT)
    return number


Number = Annotated[Decimal, PlainValidator(_number), WithJsonSchema({"type": "number"})]
Positive = Annotated[Number, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]


def _value(value: Any) -> str | Decimal | bool | None:
    match value:
        case Decimal() if has_unclear_dot(value):
            raise refuse(UNCLEAR_DOT, WITHOUT_DOT)
        case None | bool() | str() | Decimal():
            return value
        case int():
            return Decimal(value)
        case _:
            raise refuse(f"expected text, a number, true, false or null, found {kind(value)}", "write one value")


Value = Annotated[
    str | Decimal | bool | None,
    PlainValidator(_value),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]


def few(value: Any) -> Any:
    """Refuses a list that would make more faults than anybody reads."""
    if isinstance(value, list) and len(value) > MOST:
        raise refuse(f"more than {MOST} items in one list", "remove some")
    return value


def _listed(value: Any) -> Any:
    return few(value) if isinstance(value, list | tuple) else [value]


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise refuse("the same word stands here twice", "keep one of them")
    return values


class _OneOrMany:
    """One item may be written without its brackets."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], {**many, "maxItems": MOST}]}


Many = Annotated[tuple[T, ...], Field(min_length=1), _OneOrMany()]
Distinct = Annotated[Many[T], AfterValidator(_distinct)]


def _present(value: Any) -> Any:
    if value is None:
        raise refuse("nothing is written here", "write a value or remove the line")
    return value


class _Optional:
    """`T | None` where None is "not written": the file itself may only hold a T, or `off`, a word that means None.

    Without this the union of both would refuse each bad value twice, once for not being None.
    """

    def __init__(self, off: str | None = None) -> None:
        self._off = off

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner, _ = get_args(source)

        def check(value: Any, written: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return None if self._off is not None and value == self._off else written(_present(value))

        return core_schema.no_info_wrap_validator_function(check, handler.generate_schema(inner))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(schema)
        return {"anyOf": [inner, {"const": self._off}]} if self._off is not None else inner


Maybe = Annotated[T | None, _Optional()]
"""May be left out; an empty value is a slip."""

OrNone = Annotated[T | None, _Optional("none")]
"""`none` switches off what `defaults` gave."""
