"""The reasons that messages and verdicts keep, in Vietnamese.

Reasons are written down in English, once; here each is known by its shape. What is not known (the gateway's own words,
a person's) stays as it is.
"""

import re
from collections.abc import Callable, Sequence

_PIECES = {"": "(?:(?!; ).)+?", "*": ".+?", "!": ".+?", "|": ".+?", "#": "[0-9]+"}


def _known(english: str, vietnamese: str) -> tuple[re.Pattern[str], str, str]:
    """`{x}` stands for a piece that is kept, `{x*}` for one that may hold `; `, `{x|}` for values joined by "or",
    `{x#}` for digits alone, and `{x!}` for one that is a reason itself."""
    shape = re.sub(r"\\\{(\w+)(?:\\?([*!|#]))?\\\}", lambda m: f"(?P<{m[1]}>{_PIECES[m[2] or '']})", re.escape(english))
    return re.compile(shape, re.DOTALL), english, vietnamese


_KNOWN = tuple(
    _known(english, vietnamese)
    for english, vietnamese in (
        # conditions of a rule
        ("{c} did not change", "{c} không thay đổi"),
        ("{c} was not {v|} before", "trước đó {c} không phải là {v|}"),
        ("{c} is not {v|} now", "{c} bây giờ không phải là {v|}"),
        ("{c} has no value before or after", "{c} không có giá trị trước hoặc sau khi đổi"),
        ("{c} has no value", "{c} không có giá trị"),
        ("{c} did not fall below {v}", "{c} không giảm xuống dưới {v}"),
        ("{c} did not rise above {v}", "{c} không tăng lên trên {v}"),
        ("{c} did not grow by {v}", "{c} không tăng ít nhất {v}"),
        ("{c} did not fall by {v}", "{c} không giảm ít nhất {v}"),
        ("{c} is not below {v}", "{c} không dưới {v}"),
        ("{c} is not above {v}", "{c} không trên {v}"),
        ("`when` is not true: {x*}", "điều kiện `when` không đúng: {x}"),
        ("an earlier rule of the group {g} has answered", "một quy tắc đứng trước trong nhóm {g} đã xử lý"),
        ("back to where it began: nothing to tell", "giá trị đã trở về như ban đầu nên không còn gì để báo"),
        ("joined with a newer change", "đã gộp vào một thay đổi mới hơn"),
        ("a newer message of the rule {r} replaces it", "tin mới hơn của quy tắc {r} thay thế"),
        ("the rules have no watch {w}", "tệp quy tắc không có mục watch {w}"),
        ("could not be made into messages ({e})", "không tạo được tin từ thay đổi này ({e})"),
        ("a column that rules use is gone", "một cột mà quy tắc dùng không còn trong bảng"),
        ("a column that rules use has another type", "một cột mà quy tắc dùng đã đổi kiểu dữ liệu"),
        # data that is not there
        ("the row has no {c}; if the table has it, run `listener db install`",
         "dữ liệu ghi nhận không có cột {c}; nếu bảng có cột này, hãy chạy `listener db install`"),
        ('{r!} has no column "{c}"', '{r!} không có cột "{c}"'),
        ("did you mean {x}?", "có phải ý bạn là {x}?"),
        ("the row before the change is not known here", "ở đây không biết dòng dữ liệu trước khi đổi"),
        ("{x!} is NULL", "{x!} để trống (NULL)"),
        ("lookup {l} found no row", "lookup {l} không tìm thấy dòng nào"),
        ("lookup {l} found more than one row; make it find one", "lookup {l} tìm thấy nhiều hơn một dòng"),
        ("lookup {l} needs {c}, which was not captured", "lookup {l} cần cột {c} nhưng cột này không được ghi nhận"),
        ("lookup {l} failed ({e})", "lookup {l} bị lỗi ({e})"),
        ("lookup {l} cannot be repeated for the past", "lookup {l} không chạy lại được cho thời điểm đã qua"),
        ("lookup {l} needs the database", "lookup {l} cần cơ sở dữ liệu"),
        ("the test does not say what lookup {l} finds", "bài thử không ghi lookup {l} tìm thấy gì"),
        ("lookup {l}: {e}", "lookup {l} không trả lời được ({e})"),
        ('labels "{s}" have no word for "{v*}"', 'bảng từ "{s}" không có từ cho "{v}"'),
        ('there is no set of labels "{s}"', 'không có bảng từ "{s}"'),
        ('{x!} is NULL and has no "{c}"', '{x!} để trống (NULL) nên không có "{c}"'),
        ("{x!} is undefined", "{x!} chưa được đặt giá trị"),
        # values that a text or condition cannot work with
        ("division by zero", "phép chia cho 0"),
        ("the text is not a plain number such as {n}", "đây là chữ, không phải số dạng {n}"),
        ("the text is not an ISO date or time such as {d}", "đây là chữ, không phải ngày giờ dạng {d}"),
        ("a value of type {t} is not a date or time", "giá trị này (kiểu {t}) không phải là ngày giờ"),
        ("a value of type {t} is not an exact number", "giá trị này (kiểu {t}) không phải là số"),
        ("a true/false value is not a number", "giá trị đúng/sai không phải là số"),
        ("NULL is not a number", "giá trị trống (NULL) không phải là số"),
        ("NULL is not a date or time", "giá trị trống (NULL) không phải là ngày giờ"),
        ("NaN or infinity is not a number to show", "NaN hoặc vô cực không phải là số để viết vào tin"),
        ("infinity is not a date or time to show", "vô cực không phải là ngày giờ để viết vào tin"),
        ("a date has no time of day", "chỉ có ngày, không có giờ"),
        ("a time of day has no date", "chỉ có giờ, không có ngày"),
        ("a date alone or a time alone is not a date and time", "chỉ có ngày hoặc chỉ có giờ, chưa đủ cả ngày và giờ"),
        ("the date or time is outside the calendar of the years {a} to {b}",
         "ngày giờ nằm ngoài khoảng từ năm {a} đến năm {b}"),
        ("a time of day with an offset cannot be turned to local time without its date",
         "giờ có múi giờ riêng mà không có ngày thì không đổi sang giờ địa phương được"),
        ("a whole number was expected", "ở đây cần một số nguyên"),
        ("the number has more than {n} digits", "số này có hơn {n} chữ số"),
        ("the number grows longer than {n} digits", "kết quả dài hơn {n} chữ số"),
        ("the number grows too large", "kết quả quá lớn"),
        ("the sum cannot be worked out exactly", "phép tính không cho kết quả chính xác được"),
        ("{a!} is {k!} and {b!} is {m!}: neither is more", "{a!} là {k!} còn {b!} là {m!}, không so sánh hơn kém được"),
        ("{x!} is {k!}, not a number, beside {op}; join texts with ~, and make a number of a text with | float",
         "{x!} là {k!}, không phải số, nên không tính được với {op}; nối chữ bằng ~, đổi chữ thành số bằng | float"),
        ("{x!} is {k!}, not a number, beside {op}", "{x!} là {k!}, không phải số, nên không tính được với {op}"),
        ("{x!} is {k!}, not a list", "{x!} là {k!}, không phải danh sách"),
        ("{x!} is {k!}, which cannot be compared", "{x!} là {k!}, không so sánh được"),
        ("{x!} is {k!}, which cannot be tested for {c}", "{x!} là {k!}, không kiểm tra {c} được"),
        ("{a!} or {b!} is NaN, which is neither more nor less", "{a!} hoặc {b!} là NaN, không so sánh hơn kém được"),
        ("{k!} cannot be looked for in {x!}", "không tìm {k!} trong {x!} được"),
        ("only a text can be in {x!}, which is a text", "{x!} là chữ nên chỉ tìm được chữ ở trong đó"),
        ("{x!} is {k!} and has no {m}()", "{x!} là {k!}, không dùng {m}() được"),
        ('{x!} is {k!} and has no "{c}"', '{x!} là {k!}, không có "{c}"'),
        ("{x!} is {k!} and has no text of its own", "{x!} là {k!}, không viết thành chữ được"),
        ("{x!} is {k!} and has no parts", "{x!} là {k!}, không cắt lấy một phần được"),
        ("{x!} is {k!} and has no numbered items", "{x!} là {k!}, không có phần tử theo số thứ tự"),
        ("{x!} has only {n} items", "{x!} chỉ có {n} phần tử"),
        ("{x!} has more than {n} items", "{x!} có hơn {n} phần tử"),
        ("a list cannot hold lists", "danh sách không chứa được danh sách khác"),
        ("a list has no order", "danh sách không xếp thứ tự được"),
        ("a row has no order", "cả một dòng không xếp thứ tự được"),
        ("a value", "một giá trị"),
        ("a text", "chữ"),
        ("a number", "số"),
        ("true or false", "đúng/sai"),
        ("a date or time", "ngày giờ"),
        ("a list", "danh sách"),
        ("a row", "cả một dòng"),
        ("an item", "phần tử"),
        ("the value", "giá trị"),
        ("the other", "giá trị kia"),
        ("of type {t}", "giá trị kiểu {t}"),
        ("{x}(...) is given something it cannot work with", "{x}(...) được cho giá trị không dùng được"),
        ("the filter cannot work with what it is given", "filter này không dùng được với giá trị nhận vào"),
        ('there is no filter "{f}"', 'không có filter "{f}"'),
        ('there is no test "{f}"', 'không có phép kiểm tra "{f}"'),
        ("it is empty", "không có phần tử hay ký tự nào"),
        ("a separator is a text", "dấu ngăn cách phải là chữ"),
        ("replace needs two texts", "replace cần hai đoạn chữ"),
        ("map needs the name of another filter, or attribute=...", "map cần tên một filter khác, hoặc attribute=..."),
        ("round takes -20 to 20 decimals, and common, ceil or floor",
         "round nhận từ -20 đến 20 chữ số thập phân, và common, ceil hoặc floor"),
        ("a number can have 0 to 20 decimals", "số chỉ có thể có từ 0 đến 20 chữ số thập phân"),
        ("shorten needs a length of 0 or more", "shorten cần độ dài từ 0 trở lên"),
        ("the text is longer than {n} characters", "nội dung dài hơn {n} ký tự"),
        ("the text grows longer than {n} characters", "nội dung dài hơn {n} ký tự"),
        ("range has more than {n} numbers", "range có hơn {n} số"),
        ("the template loops too often or handles too much text", "mẫu tin lặp quá nhiều lần hoặc xử lý quá nhiều chữ"),
        ("the template cannot be worked out ({e})", "không soạn được nội dung ({e})"),
        ("ticket.id is not a whole number", "mã phiếu (ticket.id) không phải là số nguyên"),
        ("ticket.thread gives nothing for this change", "ticket.thread không cho kết quả với thay đổi này"),
        # a row to try a rule with, and the table that it is read from
        ("--row is not JSON: {x*}", "dòng dữ liệu không đúng dạng JSON: {x}"),
        ("--row is nested too deeply", "dòng dữ liệu lồng nhau quá sâu"),
        ("--row must be an object, such as {x}", "dòng dữ liệu phải là một đối tượng JSON, ví dụ {x}"),
        ("--row: `old` and `new` are both empty", "`old` và `new` đều trống"),
        ("watch {w} is a query, not a table: give its row with --row",
         "watch {w} là câu truy vấn, không phải bảng: hãy nhập dòng dữ liệu"),
        ("{t} has no row with the key {k*}", "{t} không có dòng nào có khóa {k}"),
        ("the rules have no table for {w}", "tệp quy tắc không có bảng cho {w}"),
        ("there is no table {t}", "không có bảng {t}"),
        ("{t} is not a table name; write it as in SQL: schema.table",
         "{t} không phải là tên bảng; hãy viết như trong SQL: schema.table"),
        ("{t} is not a table; a trigger needs the table under it", "{t} không phải là bảng; trigger cần bảng gốc"),
        ("{t} is a temporary table; it is gone with its session", "{t} là bảng tạm, mất khi phiên làm việc kết thúc"),
        ("{t} has no primary key; name the columns that tell its rows apart with `key:`",
         "{t} không có khóa chính; hãy ghi các cột phân biệt từng dòng vào `key:`"),
        ("{t} has no column {c}", "{t} không có cột {c}"),
        ("let its owner {x*}", "hãy nhờ chủ của bảng {x}"),
        ("{x} (functions and tables need their schema in front)", "{x} (hàm và bảng phải ghi schema ở trước)"),
        # phones
        ("there is no phone number", "không có số điện thoại"),
        ("this is not one phone number: it may hold digits, spaces, dots, dashes and brackets, and no more",
         "đây không phải là một số điện thoại: chỉ được có chữ số, dấu cách, dấu chấm, gạch ngang và ngoặc"),
        ("the number of digits is wrong; a Vietnamese mobile number has 10",
         "sai số lượng chữ số; số di động Việt Nam có 10 chữ số"),
        ("this is a landline, which cannot receive SMS", "đây là số máy bàn, không nhận được SMS"),
        ("1800 and 1900 numbers are services and cannot receive SMS",
         "số 1800 và 1900 là tổng đài, không nhận được SMS"),
        ("a Vietnamese mobile number begins with 03, 05, 07, 08 or 09",
         "số di động Việt Nam bắt đầu bằng 03, 05, 07, 08 hoặc 09"),
        ("no carrier has been given this range of numbers", "đầu số này chưa được cấp cho nhà mạng nào"),
        ("this is a number of another country", "đây là số nước ngoài"),
        ("this old 11-digit number was replaced in 2018 and may be someone else's now",
         "số 11 chữ số này đã đổi từ năm 2018 và có thể nay là của người khác"),
        ("its new form is {n}", "dạng mới là {n}"),
        ("the row holds an old 11-digit number; this is its new form",
         "dữ liệu ghi số 11 chữ số cũ; đây là số mới của số đó"),
        ("the phone is on the suppression list", "số nằm trong danh sách không gửi tin"),
        # texts
        ("the text is empty", "nội dung tin trống"),
        ("the text is too long: {n} characters, CareSoft takes {m}",
         "tin quá dài: {n} ký tự, CareSoft chỉ nhận {m}"),
        ("the text is too long: {n} parts, the rule allows {m}",
         "tin quá dài: {n} phần, quy tắc chỉ cho phép {m}"),
        ("the text is none of the rule's approved wordings", "nội dung không khớp mẫu tin nào đã đăng ký"),
        # limits, modes and time
        ("cap: this phone has had {n} of this rule", "số này đã nhận đủ {n} tin của quy tắc này"),
        ("brake: the rule made more than {n}; a person releases it",
         "phanh an toàn: quy tắc tạo hơn {n} tin; cần người kiểm tra rồi cho gửi"),
        ("mode shadow: shown, not sent", "đang ở chế độ shadow: chỉ hiển thị"),
        ("mode redirect without `redirect_to`", "đang ở chế độ redirect nhưng thiếu `redirect_to`"),
        ("mode allowlist: not on the list", "đang ở chế độ allowlist và số không có trong danh sách"),
        ("mode {m}: its phone gets nothing, so it waits",
         "đang ở chế độ {m}, số này không nhận tin nên tin còn chờ"),
        ("too old: the change is longer ago than `expires`", "thay đổi đã cũ hơn thời hạn `expires`"),
        ("waited past its `expires`; last: {x!}", "chờ quá thời hạn `expires`; lần cuối: {x!}"),
        ("waited past its `expires`; an earlier request was not answered",
         "chờ quá thời hạn `expires`; một lần gửi trước đó không có câu trả lời"),
        ("waited past its `expires`", "chờ quá thời hạn `expires`"),
        ("recheck: the row is gone", "xem lại trước khi gửi: dòng dữ liệu không còn"),
        ("recheck: {c} changed since", "xem lại trước khi gửi: {c} đã thay đổi"),
        ("the row could not be read again ({x!})", "chưa đọc lại được dòng dữ liệu để xem lại ({x!})"),
        ("the row could not be read again", "chưa đọc lại được dòng dữ liệu để xem lại"),
        ("phone and text were removed after their time", "số điện thoại và nội dung đã được xóa khi hết hạn lưu"),
        ("removed after its time", "dữ liệu đã được xóa khi hết hạn lưu"),
        ("forgotten", "dữ liệu đã được xóa theo yêu cầu"),
        # what people did
        ("the outbox was locked", "hộp chờ (outbox) bị khóa"),
        ("rows left out because another one has their key: {x}", "bỏ qua vì trùng khóa với dòng khác: {x} dòng"),
        ("cancelled by {who}: {x}", "{who} đã hủy: {x}"),
        ("cancelled by {who}", "{who} đã hủy"),
        ("released by {who}: {x}", "{who} đã cho gửi: {x}"),
        ("released by {who}", "{who} đã cho gửi"),
        ("to be sent again by {who}: {x}", "{who} cho gửi lại: {x}"),
        ("to be sent again by {who}", "{who} cho gửi lại"),
        ("it did arrive, says {who}: {x}", "{who} cho biết tin đã tới: {x}"),
        ("it did arrive, says {who}", "{who} cho biết tin đã tới"),
        ("forgotten by {who}", "{who} đã xóa dữ liệu theo yêu cầu"),
        ("the phone is on the suppression list, says {who}", "{who} đã đưa số này vào danh sách không gửi tin"),
        ("perhaps sent before", "có thể đã gửi trước đó"),
        ("it is not in the rules any more; put it back, or cancel what waits for it",
         "tệp quy tắc không còn tài khoản này; hãy khai báo lại, hoặc hủy các tin đang chờ nó"),
        # why a person's deed did nothing
        ("judged anew: {x!}", "xét lại: {x!}"),
        ("the change that it came of is no longer kept", "thay đổi tạo ra tin này không còn được lưu"),
        ("its rule is not in the rules in force", "quy tắc của tin không còn trong bản đang dùng"),
        ("the rules in force make no other message of its change",
         "quy tắc đang dùng không tạo tin nào khác từ thay đổi này"),
        ("there is no such message", "không có tin này"),
        ("a pause holds it: `listener resume` lets it go", "tin đang bị tạm dừng giữ lại; `listener resume` để thả"),
        ("it grew too old while it was held and expires; `listener retry` sends it now",
         "tin đã quá hạn trong lúc bị giữ nên không gửi nữa; muốn gửi ngay thì `listener retry`"),
        ("it is being sent right now", "tin đang được gửi ngay lúc này"),
        ("it waits to be sent already", "tin đã chờ gửi sẵn"),
        ("CareSoft has accepted it", "CareSoft đã nhận tin này"),
        ("its phone is on the suppression list, or another message took its place",
         "số nằm trong danh sách không gửi tin, hoặc tin khác đã thay thế"),
        ("it is not unclear any more", "tin không còn ở trạng thái chưa rõ"),
        ("`retry` does nothing to a message in the state {s!}", "không thể gửi lại tin ở trạng thái “{s!}”"),
        ("`cancel` does nothing to a message in the state {s!}", "không thể hủy tin ở trạng thái “{s!}”"),
        ("`release` does nothing to a message in the state {s!}", "không thể cho gửi tin ở trạng thái “{s!}”"),
        ("there is no rule {r}", "không có quy tắc {r}"),
        ("there is no account {a}", "không có tài khoản {a}"),
        # states, where nothing else tells why
        ("unknown", "chưa rõ"),
        ("rejected", "không gửi được"),
        ("expired", "quá hạn"),
        ("cancelled", "đã hủy"),
        ("superseded", "được thay thế"),
        ("suppressed", "không muốn nhận"),
        ("shadow", "chạy thử"),
        ("other reasons", "lý do khác"),
        ("the pause's time was over", "đã hết thời gian tạm dừng"),
        ("that end is too far away; a pause without an end lasts until somebody resumes",
         "thời điểm kết thúc quá xa; không ghi thì tạm dừng đến khi có người cho chạy lại"),
        ("the rule is paused: {x}", "quy tắc đang tạm dừng: {x}"),
        ("the phone is paused: {x}", "số này đang tạm dừng: {x}"),
        # what stops everything, or a rule, by itself
        ("more than {n}", "vượt quá {n}"),
        ("this is another server than before: a backup that was restored, or a copy",
         "đây là máy chủ cơ sở dữ liệu khác: một bản sao lưu được khôi phục, hoặc một bản sao"),
        ("this is another database of the server than before: a dump that was restored, or a copy",
         "đây là cơ sở dữ liệu khác trên máy chủ: một bản sao lưu được khôi phục, hoặc một bản sao"),
        ("the server was failed over or restored, and may have lost its last commits",
         "máy chủ đã chuyển sang bản dự phòng hoặc được khôi phục, có thể mất những giao dịch cuối"),
        ("the server is back in an earlier state, and has lost commits that it had confirmed",
         "máy chủ đã trở về trạng thái cũ hơn và mất những giao dịch đã xác nhận"),
        ("find out what was sent since, then resume", "hãy xem từ đó đã gửi những gì rồi mới cho chạy lại"),
        # the gateway
        ("refused by the gateway: {x!}", "CareSoft từ chối: {x!}"),
        ("refused with status {n#}", "bị từ chối với mã {n}"),
        ("status {n#}", "mã trả lời {n}"),
        ("perhaps sent: {x!}", "có thể đã gửi: {x!}"),
        ("sent after all", "hóa ra đã gửi được"),
        ("an earlier request was answered after all", "một lần gửi trước đó rốt cuộc đã có câu trả lời"),
        ("found on its ticket", "thấy tin trên phiếu"),
        ("the gateway used ticket {a} instead of {b}", "CareSoft dùng phiếu {a} thay cho {b}"),
        ("ticket {t} refused ({x!}): sent without it", "phiếu {t} không được nhận ({x!}), gửi không kèm phiếu"),
        ("ticket {t} was refused before: not asked for again", "phiếu {t} đã bị từ chối trước đó nên không dùng lại"),
        ("without a ticket: the message that may have made one was not answered",
         "gửi không kèm phiếu: tin có thể đã tạo phiếu chưa có câu trả lời"),
        ("too many requests (429)", "quá nhiều yêu cầu (429)"),
        ("CareSoft answered 429: too many requests", "CareSoft báo quá nhiều yêu cầu (429)"),
        ("the gateway locked the account out for {n} min", "CareSoft khóa tài khoản trong {n} phút"),
        ("CareSoft locked the account out for {n} minutes (too many requests)",
         "CareSoft khóa tài khoản trong {n} phút vì quá nhiều yêu cầu"),
        ("the token was refused ({n})", "token bị từ chối ({n})"),
        ("CareSoft refused the token ({n}); put a valid one in its place",
         "CareSoft từ chối token ({n}); hãy thay bằng token đúng"),
        ("CareSoft answered {n} ({x!}); check `domain` and the address",
         "CareSoft trả lời {n} ({x!}); hãy kiểm tra `domain` và địa chỉ"),
        ("no clear answers from CareSoft: {x!}", "CareSoft không trả lời rõ ràng: {x!}"),
        ("200 and ok, but without a usable ticket", "CareSoft báo đã nhận nhưng không có mã phiếu"),
        ("200 with an answer that cannot be read", "không đọc được câu trả lời của CareSoft"),
        ("the gateway gave up waiting", "CareSoft chờ quá lâu rồi bỏ"),
        ("whoever sent it did not come back", "tiến trình gửi tin đã dừng giữa chừng"),
        ("the slot was too old", "lỡ mất lượt gửi"),
        ("the database did not confirm the lease", "cơ sở dữ liệu không xác nhận kịp"),
        ("the gateway's certificate is not valid", "chứng chỉ của CareSoft không hợp lệ"),
        ("TLS with the gateway failed", "không thiết lập được TLS với CareSoft"),
        ("the gateway's name cannot be resolved", "không phân giải được tên miền của CareSoft"),
        ("the gateway's name leads to a private address; if it is meant, set LISTENER_CARESOFT_PRIVATE=1",
         "tên miền của CareSoft trỏ vào mạng nội bộ; nếu đúng ý, hãy đặt LISTENER_CARESOFT_PRIVATE=1"),
        ("no answer in time", "không có câu trả lời kịp thời"),
        ("no connection to the gateway", "không kết nối được với CareSoft"),
        ("the gateway closed the connection without an answer", "CareSoft đóng kết nối mà không trả lời"),
        ("the answer broke off", "câu trả lời bị đứt giữa chừng"),
        ("the answer is not HTTP", "câu trả lời không phải HTTP"),
        ("the connection broke", "kết nối bị đứt"),
        ("the request failed ({e})", "gửi yêu cầu bị lỗi ({e})"),
    )
)  # fmt: skip
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
