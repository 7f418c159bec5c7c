"""The words of `rules.yaml` as frozen models: the nouns that every other module uses.

A field's default is written as the file would write it. Each description is one sentence in English and in Vietnamese;
editors show them. What needs two places of the file to be judged is in `references.py`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, model_validator

from listener.model import Mode, Op
from listener.rules.forms import (
    CapForm,
    Column,
    Distinct,
    Domain,
    Duration,
    Many,
    Maybe,
    Message,
    Moment,
    Name,
    Number,
    OrNone,
    Phone,
    Positive,
    RateForm,
    ServiceId,
    Table,
    Text,
    TimeOfDay,
    Token,
    Value,
    Zone,
    few,
    refuse,
)
from listener.rules.snippets import Condition, Query, Statement
from listener.text import DEFAULT_PARTS, rising


def say(english: str, vietnamese: str) -> str:
    """A description in both languages, as editors show it."""
    return f"{english} / {vietnamese}"


class OnCaptureError(StrEnum):
    COUNT = "count"
    ABORT = "abort"


class Accents(StrEnum):
    STRIP = "strip"
    KEEP = "keep"


class Priority(StrEnum):
    URGENT = "urgent"
    NORMAL = "normal"
    BULK = "bulk"


class IfUnsure(StrEnum):
    HOLD = "hold"
    RESEND = "resend"


class _Words(BaseModel):
    """A mapping of the file: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_alias=True, validate_by_name=True)


_Lengths = Annotated[
    tuple[Annotated[StrictInt, Field(ge=1, le=10_000)], ...], Field(min_length=1), BeforeValidator(few)
]


class Parts(_Words):
    """How many characters fill 1, 2, 3 ... SMS."""

    unaccented: _Lengths = Field(
        default=DEFAULT_PARTS.unaccented,
        description=say(
            "Most characters in 1, 2, 3... parts without accents.", "Số ký tự tối đa của 1, 2, 3... phần không dấu."
        ),
    )
    accented: _Lengths = Field(
        default=DEFAULT_PARTS.accented,
        description=say(
            "Most characters in 1, 2, 3... parts with accents.", "Số ký tự tối đa của 1, 2, 3... phần có dấu."
        ),
    )

    @model_validator(mode="after")
    def _rising(self) -> "Parts":
        for name, table in (("unaccented", self.unaccented), ("accented", self.accented)):
            if not rising(table):
                raise refuse("each number must be larger than the one before it", "write them rising", child=name)
        return self


class Account(_Words):
    """One CareSoft account."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["token"]}, {"required": ["token_file"]}]})

    domain: Domain = Field(description=say("The account's name at CareSoft.", "Tên tài khoản ở CareSoft."))
    token: Maybe[Token] = Field(
        default=None,
        description=say(
            "Environment variable that holds the API token, as ${NAME}.",
            "Biến môi trường chứa token API, dạng ${NAME}.",
        ),
    )
    token_file: Maybe[Text] = Field(
        default=None,
        description=say(
            "File that holds the API token, re-read when it changes.", "Tệp chứa token API, tự đọc lại khi đổi."
        ),
    )
    service_id: ServiceId = Field(
        description=say("Number of the SMS service at CareSoft.", "Mã dịch vụ SMS ở CareSoft.")
    )
    rate: RateForm = Field(
        default="12/s",
        validate_default=True,
        description=say(
            "Most requests in a time, such as 12/s.", "Số yêu cầu tối đa trong một khoảng thời gian, ví dụ 12/s."
        ),
    )
    parts: Parts = Field(
        default_factory=Parts,
        description=say("The carrier's table of SMS lengths.", "Bảng độ dài tin nhắn của nhà mạng."),
    )


def _none_of(*keys: str) -> dict[str, Any]:
    return {"not": {"anyOf": [{"required": [key]} for key in keys]}}


class Watch(_Words):
    """Which changes are captured: of a table, or rows that a query finds each day."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["table"], **_none_of("every", "select", "catch_up")},
                {"required": ["every", "select", "key"], **_none_of("columns", "events", "where", "on_capture_error")},
            ]
        }
    )

    table: Maybe[Table] = Field(
        default=None, description=say("Table as SQL writes it.", "Tên bảng viết như trong SQL.")
    )
    columns: Distinct[Column] = Field(
        default=(), description=say("Columns whose change counts.", "Các cột mà khi thay đổi thì được ghi nhận.")
    )
    events: Distinct[Op] = Field(
        default=(Op.UPDATE,),
        description=say(
            "What counts: insert, update, delete.", "Loại thay đổi: insert (thêm), update (sửa), delete (xóa)."
        ),
    )
    key: Distinct[Column] = Field(
        default=(),
        description=say(
            "Columns that name the thing; default the primary key.",
            "Các cột cho biết đó là đơn nào, tài khoản nào; mặc định là khóa chính.",
        ),
    )
    where: Maybe[Condition] = Field(
        default=None, description=say("SQL condition on NEW and OLD.", "Điều kiện SQL trên NEW và OLD.")
    )
    lookup: dict[Name, Query] = Field(
        default={},
        description=say("Queries that fetch more about a row, by name.", "Các truy vấn lấy thêm dữ liệu, theo tên."),
    )
    on_capture_error: OnCaptureError = Field(
        default=OnCaptureError.COUNT,
        description=say(
            "If capture fails: count it, or abort the ERP's change.",
            "Khi ghi nhận lỗi: chỉ đếm, hoặc hủy thay đổi của ERP.",
        ),
    )
    every: Maybe[TimeOfDay] = Field(
        default=None, description=say("Time of day at which `select` runs.", "Giờ chạy `select` mỗi ngày.")
    )
    select: Maybe[Query] = Field(
        default=None,
        description=say("Query whose rows are the day's changes.", "Truy vấn trả về các dòng cần báo trong ngày."),
    )
    catch_up: Maybe[Duration] = Field(
        default=None,
        description=say("How late a missed run may still be made.", "Lần chạy bị lỡ được chạy bù trễ tối đa bao lâu."),
    )


class ColumnChange(_Words):
    """What must have happened to one column; several words are joined by AND, an empty `from_` or `to` asks nothing."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    from_: Many[Value] = Field(
        default=(), alias="from", description=say("Value or values before.", "Giá trị trước khi đổi.")
    )
    to: Many[Value] = Field(default=(), description=say("Value or values after.", "Giá trị sau khi đổi."))
    crosses_below: Maybe[Number] = Field(
        default=None, description=say("Was at or above this, is now below.", "Từ bằng hoặc trên mức này xuống dưới.")
    )
    crosses_above: Maybe[Number] = Field(
        default=None, description=say("Was at or below this, is now above.", "Từ bằng hoặc dưới mức này lên trên.")
    )
    increases_by: Maybe[Positive] = Field(
        default=None, description=say("Grew by at least this.", "Tăng ít nhất bằng số này.")
    )
    decreases_by: Maybe[Positive] = Field(
        default=None, description=say("Fell by at least this.", "Giảm ít nhất bằng số này.")
    )

    @model_validator(mode="after")
    def _says_something(self) -> "ColumnChange":
        if not self.model_fields_set:
            raise refuse("nothing is asked of this column", f"use one of: {', '.join(CHANGE_WORDS)}")
        return self

    @property
    def asks_for_numbers(self) -> bool:
        return bool(self.model_fields_set - {"from_", "to"})


CHANGE_WORDS = tuple(field.alias or name for name, field in ColumnChange.model_fields.items())


class QuietHours(_Words):
    """From `start` (inclusive) to `end` (exclusive), over midnight if `end` is the earlier one."""

    start: TimeOfDay = Field(alias="from", description=say("When the quiet begins.", "Giờ bắt đầu yên lặng."))
    end: TimeOfDay = Field(alias="to", description=say("When it ends.", "Giờ được gửi lại."))

    @model_validator(mode="after")
    def _has_length(self) -> "QuietHours":
        if self.start == self.end:
            raise refuse("the quiet hours end when they begin", "write `quiet_hours: none` for none", child="to")
        return self


class Coalesce(_Words):
    """Changes close together become one message."""

    wait: Duration = Field(description=say("Wait this long after each change.", "Chờ chừng này sau mỗi thay đổi."))
    max_wait: Duration = Field(
        default_factory=lambda earlier: earlier["wait"],
        description=say(
            "But no longer than this after the first; default `wait`.",
            "Nhưng không quá chừng này sau thay đổi đầu; mặc định bằng `wait`.",
        ),
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Coalesce":
        if self.wait > self.max_wait:
            raise refuse("max_wait is shorter than wait", "make it at least as long", child="max_wait")
        return self


class Ticket(_Words):
    """Where the CareSoft ticket comes from and where its id is kept."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    id: Maybe[Text] = Field(default=None, description=say("Expression for the ticket's id.", "Biểu thức cho mã phiếu."))
    thread: Maybe[Text] = Field(
        default=None,
        description=say(
            "Expression; equal results share a ticket.", "Biểu thức; kết quả giống nhau thì chung một phiếu."
        ),
    )
    save: Maybe[Statement] = Field(
        default=None, description=say("SQL that writes the id back into the ERP.", "Câu SQL ghi mã phiếu vào ERP.")
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Ticket":
        if not self.model_fields_set:
            raise refuse("nothing is said about the ticket", "use one of: id, thread, save")
        return self


class RuleOptions(_Words):
    """The keys that `defaults` and each rule share."""

    enabled: StrictBool = Field(default=True, description=say("false switches the rule off.", "false là tắt quy tắc."))
    account: Name = Field(
        default="", description=say("Account that sends; the only one if there is one.", "Tài khoản dùng để gửi.")
    )
    channel: Literal["sms"] = Field(default="sms", description=say("How to send.", "Kênh gửi."))
    mode: Mode = Field(
        default=Mode.LIVE,
        description=say(
            "live sends; shadow only shows; redirect sends to redirect_to; allowlist to its numbers.",
            "live gửi thật; shadow chạy thử không gửi; redirect gửi tới redirect_to; allowlist chỉ gửi cho danh sách.",
        ),
    )
    redirect_to: Maybe[Phone] = Field(
        default=None,
        description=say("Number that gets all messages in mode redirect.", "Số nhận mọi tin khi mode là redirect."),
    )
    allowlist: Distinct[Phone] = Field(
        default=(),
        description=say(
            "Only these numbers get messages in mode allowlist.", "Chỉ các số này nhận tin khi mode là allowlist."
        ),
    )
    accents: Accents = Field(
        default=Accents.STRIP, description=say("strip or keep accents.", "Bỏ dấu (strip) hoặc giữ dấu (keep).")
    )
    max_parts: Annotated[StrictInt, Field(ge=1, le=10)] = Field(
        default=2, description=say("A text of more parts is rejected.", "Từ chối tin dài hơn số phần này.")
    )
    expires: Duration = Field(
        default="6h",
        validate_default=True,
        description=say(
            "Do not send later than this after the change.", "Không gửi sau khi thay đổi đã qua chừng này."
        ),
    )
    quiet_hours: OrNone[QuietHours] = Field(
        default=None, description=say("Hours without messages, or none.", "Giờ yên lặng (không gửi tin), hoặc none.")
    )
    time_zone: Zone = Field(
        default="Asia/Ho_Chi_Minh",
        validate_default=True,
        description=say(
            "Time zone of the quiet hours and of dates in texts; in `defaults` that of `every`, `select` and `lookup` "
            "too.",
            "Múi giờ của giờ yên lặng và của ngày giờ trong tin; ở `defaults` còn là của `every`, `select`, `lookup`.",
        ),
    )
    priority: Priority = Field(
        default=Priority.NORMAL,
        description=say("What goes first: urgent, normal, bulk.", "Độ ưu tiên: urgent, normal, bulk."),
    )
    coalesce: OrNone[Coalesce] = Field(
        default=None, description=say("Join changes close together.", "Gộp các thay đổi gần nhau thành một tin.")
    )
    ticket: OrNone[Ticket] = Field(
        default=None, description=say("The CareSoft ticket to use.", "Phiếu CareSoft được dùng.")
    )
    supersedes: Distinct[Name] = Field(
        default=(),
        description=say(
            "Rules whose unsent messages this one replaces.", "Các quy tắc có tin chưa gửi bị tin này thay thế."
        ),
    )
    if_unsure: IfUnsure = Field(
        default=IfUnsure.HOLD,
        description=say(
            "If it is not known whether a message went: hold or resend.",
            "Khi không rõ tin đã gửi chưa: giữ lại (hold) hay gửi lại (resend).",
        ),
    )
    cap: OrNone[CapForm] = Field(
        default=None,
        description=say(
            "Most messages of the rule to one phone, such as 3/day.",
            "Số tin tối đa của quy tắc này cho một số điện thoại, ví dụ 3/day.",
        ),
    )
    brake: OrNone[CapForm] = Field(
        default=None,
        description=say(
            "Above this, messages are held and an alarm is raised.", "Vượt mức này thì giữ tin lại và báo động."
        ),
    )
    recheck: StrictBool = Field(
        default=False,
        description=say(
            "Read the row again right before a late send; drop it if a column that the rule reads has changed. While "
            "the row cannot be read (no right, table renamed) the message waits, until it `expires`.",
            "Đọc lại dòng dữ liệu ngay trước khi gửi trễ; bỏ tin nếu cột mà quy tắc dùng đã đổi. Không đọc lại được "
            "(mất quyền, đổi tên bảng) thì tin chờ đến khi hết hạn `expires`.",
        ),
    )
    approved: Many[Text] = Field(
        default=(), description=say("Wordings registered for the brand name.", "Các mẫu tin đã đăng ký cho brandname.")
    )
    migrate_old: StrictBool = Field(
        default=False,
        description=say("Send to the new form of an old 11-digit number.", "Gửi tới số mới của số 11 chữ số cũ."),
    )
    max_block: Duration = Field(
        default="10m",
        validate_default=True,
        description=say(
            "Longest that a retried message delays those behind it.",
            "Tin đang thử lại được chặn tin sau tối đa chừng này.",
        ),
    )
    first_match: Maybe[Name] = Field(
        default=None,
        description=say(
            "Of the rules with this group name only the first that fits acts.",
            "Trong nhóm cùng tên chỉ quy tắc khớp đầu tiên chạy.",
        ),
    )


def _without_name(schema: dict[str, Any]) -> None:
    del schema["properties"]["name"]


class Rule(RuleOptions):
    """One rule: which change becomes which message to whom."""

    model_config = ConfigDict(json_schema_extra=_without_name)

    name: str = Field(default="", description="Its key under `rules`, filled in by the reader.")
    on: Name = Field(description=say("The watch that it answers.", "Tên mục trong watch."))
    change: dict[Column, ColumnChange] = Field(
        default={}, description=say("What must have changed, by column.", "Thay đổi cần có, theo cột.")
    )
    when: Maybe[Text] = Field(
        default=None, description=say("Expression that must be true too.", "Biểu thức cũng phải đúng.")
    )
    to: Many[Text] = Field(
        description=say("Expression for the phone, or a list.", "Biểu thức cho số điện thoại, hoặc danh sách.")
    )
    text: Message = Field(
        description=say("The message, with {{ }} for values.", "Nội dung tin, giá trị đặt trong {{ }}.")
    )


Row = dict[str, Value]


class Expectation(_Words):
    """One message that a test expects."""

    rule: Name = Field(description=say("The rule that makes it.", "Quy tắc tạo ra tin."))
    to: Text = Field(description=say("The phone that gets it.", "Số điện thoại nhận."))
    text: Text = Field(description=say("The text as sent.", "Nội dung đúng như khi gửi."))
    parts: Maybe[Annotated[StrictInt, Field(ge=1)]] = Field(
        default=None, description=say("Its parts.", "Số phần của tin.")
    )
    ticket_id: Maybe[ServiceId] = Field(default=None, description=say("The ticket it goes on.", "Mã phiếu của tin."))


def _told_by_rows(earlier: dict[str, Any]) -> Op:
    if earlier["old"] is None:
        return Op.INSERT
    return Op.DELETE if earlier["new"] is None else Op.UPDATE


class RuleTest(_Words):
    """One made-up change and the messages that should come of it."""

    model_config = ConfigDict(
        json_schema_extra={"if": {"required": ["skipped"]}, "then": {"properties": {"expect": {"maxItems": 0}}}}
    )

    name: Text = Field(description=say("What it shows.", "Bài thử này cho thấy điều gì."))
    on: Name = Field(description=say("The watch.", "Tên mục trong watch."))
    old: Maybe[Row] = Field(default=None, description=say("The row before.", "Dòng trước khi đổi."))
    new: Maybe[Row] = Field(default=None, description=say("The row after.", "Dòng sau khi đổi."))
    op: Op = Field(
        default_factory=_told_by_rows,
        description=say(
            "insert, update or delete; told by old and new.", "insert, update hay delete; suy ra từ old và new."
        ),
    )
    lookup: dict[Name, Row | None] = Field(
        default={},
        description=say(
            "What each lookup finds; null for no row.", "Kết quả của từng lookup; null là không có dòng nào."
        ),
    )
    at: Maybe[Moment] = Field(
        default=None,
        description=say(
            "When it happens, with zone; default 1/1/2026 12:00 in Vietnam.",
            "Thời điểm xảy ra, có múi giờ; mặc định 12:00 ngày 1/1/2026 giờ Việt Nam.",
        ),
    )
    expect: Annotated[tuple[Expectation, ...], BeforeValidator(few)] = Field(
        description=say("All messages; [] for none.", "Mọi tin nhắn; [] là không có tin nào.")
    )
    skipped: Maybe[Text] = Field(
        default=None,
        description=say(
            "With `expect: []`: words that the reason for no message must contain.",
            "Dùng với `expect: []`: các từ phải có trong lý do không gửi tin.",
        ),
    )


class Rules(_Words):
    """A whole `rules.yaml`."""

    version: Literal[1] = Field(description=say("Version of this file's format.", "Phiên bản định dạng tệp."))
    accounts: Annotated[dict[Name, Account], Field(min_length=1)] = Field(
        description=say("CareSoft accounts by name.", "Các tài khoản CareSoft theo tên.")
    )
    defaults: RuleOptions = Field(
        default_factory=RuleOptions,
        description=say("Rule keys that hold unless a rule says otherwise.", "Giá trị mặc định cho mọi quy tắc."),
    )
    labels: dict[Text, dict[Text, Annotated[str, Field(strict=True)]]] = Field(
        default={}, description=say("Words for codes, by set.", "Từ ngữ thay cho mã, theo nhóm.")
    )
    watch: Annotated[dict[Name, Watch], Field(min_length=1)] = Field(
        description=say("What is watched, by name.", "Các mục theo dõi, theo tên.")
    )
    rules: Annotated[dict[Name, Rule], Field(min_length=1)] = Field(
        description=say("The rules by name.", "Các quy tắc theo tên.")
    )
    tests: tuple[RuleTest, ...] = Field(
        default=(), description=say("Examples with their expected messages.", "Các ví dụ kèm tin nhắn mong đợi.")
    )

    def live(self) -> "Rules":
        """The same with every rule in mode live."""
        live = {name: rule.model_copy(update={"mode": Mode.LIVE}) for name, rule in self.rules.items()}
        return self.model_copy(update={"rules": live})
