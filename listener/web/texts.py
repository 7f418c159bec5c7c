"""Every word of the page, in Vietnamese and English."""

from collections.abc import Mapping
from functools import cache

LANGUAGES: Mapping[str, str] = {"vi": "Tiếng Việt", "en": "English"}
DEFAULT = "vi"

# key: (Vietnamese, English). `{name}` is filled in.
WORDS: Mapping[str, tuple[str, str]] = {
    # the frame
    "product": ("listener · SMS từ ERP", "listener · SMS from the ERP"),
    "skip": ("Đến nội dung", "Skip to content"),
    "nav": ("Các trang", "Pages"),
    "nav_overview": ("Tổng quan", "Overview"),
    "nav_messages": ("Tin nhắn", "Messages"),
    "nav_rules": ("Quy tắc", "Rules"),
    "nav_interventions": ("Can thiệp", "Interventions"),
    "nav_audit": ("Nhật ký", "Audit"),
    "language": ("Ngôn ngữ", "Language"),
    "logout": ("Thoát", "Log out"),
    "role_view": ("chỉ xem", "view only"),
    "role_operate": ("vận hành", "operator"),
    "live_lost": (
        "Mất kết nối trực tiếp; số liệu được lấy lại vài giây một lần.",
        "The live connection is lost; figures are fetched every few seconds.",
    ),
    "second": ("giây", "s"),
    "minute": ("phút", "min"),
    "hour": ("giờ", "h"),
    "day": ("ngày", "days"),
    # the way in
    "login": ("Đăng nhập", "Log in"),
    "login_lead": (
        "Trang này cho thấy SMS nào đã gửi, đang chờ và vì sao.",
        "This page shows which SMS were sent, which wait, and why.",
    ),
    "login_token": ("Mã truy cập", "Access token"),
    "login_name": ("Tên của bạn", "Your name"),
    "login_name_hint": ("Được ghi vào nhật ký khi bạn can thiệp.", "Written to the audit when you intervene."),
    "login_wrong": ("Mã truy cập không đúng.", "That is not the token."),
    "login_slow": (
        "Thử quá nhiều lần. Đợi vài giây rồi thử lại.",
        "Too many tries. Wait a few seconds, then try again.",
    ),
    "locked": ("Trang chưa được mở", "The page is not open yet"),
    "locked_why": (
        "Chưa có mã truy cập nào, nên không ai vào được. Người vận hành đặt mã như sau rồi khởi động lại:",
        "No access token is set, so nobody can get in. The operator sets one like this, then restarts:",
    ),
    "locked_view": (
        "Thêm LISTENER_VIEW_TOKEN cho những người chỉ được xem. Mỗi biến đều có bản _FILE để đọc mã từ tệp.",
        "Add LISTENER_VIEW_TOKEN for people who may only look. Each has a _FILE twin that reads it from a file.",
    ),
    # faults
    "e_database": ("Chưa kết nối được cơ sở dữ liệu", "The database is out of reach"),
    "e_database_why": (
        "Không mất tin nào: trang sẽ hiện lại khi cơ sở dữ liệu trả lời. Hãy tải lại sau ít phút.",
        "Nothing is lost: the page comes back when the database answers. Reload in a minute.",
    ),
    "e_forbidden": ("Không được phép", "Not allowed"),
    "e_absent": ("Không có trang này", "There is no such page"),
    "e_method": ("Không làm được theo cách này", "That cannot be done this way"),
    "e_request": ("Yêu cầu không hợp lệ", "That request cannot be used"),
    "e_own": ("Trang gặp lỗi", "The page failed"),
    "e_own_why": (
        "Việc gửi SMS không bị ảnh hưởng. Chi tiết nằm trong log của listener.",
        "Sending is not affected. The details are in listener's log.",
    ),
    "e_back": ("Hãy quay lại trang trước và thử lại.", "Go back to the page before and try again."),
    "home": ("Về trang tổng quan", "To the overview"),
    # what needs a person
    "c_good": ("Mọi thứ hoạt động tốt.", "Everything works."),
    "c_shadow": (
        "Hoạt động tốt ở chế độ thử (shadow): tin được soạn nhưng không gửi.",
        "Works, in shadow mode: messages are made but not sent.",
    ),
    "c_works_but": (
        "Vẫn gửi bình thường, nhưng có {n} việc cần bạn xem.",
        "Sending works, but something needs you ({n}).",
    ),
    "c_slow": (
        "Tin đến hạn đã chờ {minutes} phút mà chưa gửi được.",
        "A message that is due has waited for {minutes} minutes.",
    ),
    "c_no_replica": (
        "Không có tiến trình nào chạy: SMS không được gửi.",
        "No replica is running: nothing is sent.",
    ),
    "c_all_paused": ("Đang tạm dừng tất cả: không SMS nào được gửi.", "Everything is paused: no SMS is sent."),
    "c_account": (
        "Tài khoản {account} đang không gửi được: {reason}",
        "Account {account} cannot send: {reason}",
    ),
    "c_capture": (
        "{n} lần ghi nhận thay đổi từ ERP bị lỗi: có thể thiếu tin.",
        "{n} changes in the ERP could not be captured: messages may be missing.",
    ),
    "c_rules": (
        "Tệp quy tắc có {n} lỗi; quy tắc tốt trước đó vẫn được dùng.",
        "The rules file has {n} faults; the last good rules stay in use.",
    ),
    "c_brake": (
        "Quy tắc {rule} bị hãm vì tạo quá nhiều tin.",
        "The brake holds rule {rule}: it made too many messages.",
    ),
    "c_paused": ("Đang tạm dừng: {what}.", "Paused: {what}."),
    "c_unknown": (
        "{n} tin chưa rõ đã tới hay chưa; cần người quyết định.",
        "{n} messages were perhaps sent; a person must decide.",
    ),
    "c_held": ("{n} tin đang bị giữ lại.", "{n} messages are held."),
    "c_rejected": ("{n} tin không gửi được trong 24 giờ qua.", "{n} messages could not be sent in the last 24 hours."),
    "c_muted": (
        "{n} thay đổi bị tắt tiếng (listener.mute) chưa được xử lý.",
        "{n} muted changes (listener.mute) have not been dealt with.",
    ),
    "needs_you": ("Cần bạn xem", "Needs you"),
    "needs_nothing": ("Không có gì cần bạn làm.", "Nothing needs you."),
    "look": ("Xem", "Look"),
    # overview
    "sent_today": ("Đã gửi hôm nay", "Sent today"),
    "parts_of": ("{n} phần tin", "{n} parts"),
    "waiting_now": ("Đang chờ", "Waiting"),
    "through_in": ("gửi hết sau khoảng {time}", "all sent in about {time}"),
    "through_never": ("chưa biết khi nào gửi hết: đang tạm dừng", "no end in sight while a pause has none"),
    "nothing_waits": ("không có tin chờ", "nothing waits"),
    "oldest": ("lâu nhất {time}", "oldest {time}"),
    "held_now": ("Đang giữ", "Held"),
    "held_hint": ("chờ người cho gửi hoặc huỷ", "a person releases or cancels"),
    "unknown_now": ("Chưa rõ", "Unknown"),
    "unknown_hint": ("có thể đã gửi", "perhaps sent"),
    "rejected_day": ("Không gửi được (24 giờ)", "Rejected (24 h)"),
    "rejected_hint": ("sai số, sai nội dung…", "bad phone, bad text…"),
    "recent": ("Từ {time} đến giờ", "Since {time}"),
    "recent_none": ("chưa có tin nào.", "no message yet."),
    "chart": ("SMS mỗi giờ, 24 giờ qua", "SMS per hour, last 24 h"),
    "chart_label": (
        "Biểu đồ số SMS mỗi giờ trong 24 giờ qua theo kết quả",
        "Chart of SMS per hour in the last 24 hours by outcome",
    ),
    "chart_table": ("Xem dạng bảng", "As a table"),
    "hour_of_day": ("Giờ", "Hour"),
    "s_accepted": ("đã gửi", "sent"),
    "s_shadow": ("chạy thử", "shadow"),
    "s_other": ("không gửi", "not sent"),
    "s_unknown": ("chưa rõ", "unknown"),
    "s_rejected": ("bị từ chối", "rejected"),
    "by_rule": ("Hôm nay theo quy tắc", "Today by rule"),
    "rule": ("Quy tắc", "Rule"),
    "sent": ("Đã gửi", "Sent"),
    "parts": ("Phần tin", "Parts"),
    "rejected": ("Từ chối", "Rejected"),
    "none_today": ("Hôm nay chưa có tin nào.", "No message yet today."),
    "system": ("Hệ thống", "System"),
    "rules_version": ("Quy tắc đang dùng", "Rules in force"),
    "version_since": ("phiên bản {version}, từ {time}", "version {version}, since {time}"),
    "no_rules": ("chưa có", "none yet"),
    "rules_faults": ("Tệp quy tắc có lỗi", "The rules file has faults"),
    "mode": ("Chế độ", "Mode"),
    "mode_live": ("gửi thật", "live"),
    "mode_shadow": ("thử, không gửi", "shadow, nothing is sent"),
    "mode_redirect": ("chuyển về số thử", "redirected to a test phone"),
    "mode_allowlist": ("chỉ gửi số cho phép", "allow-listed phones only"),
    "replicas": ("Tiến trình đang chạy", "Replicas alive"),
    "replicas_some": ("{n} (phiên bản {versions})", "{n} (version {versions})"),
    "replicas_none": ("không có", "none"),
    "capture_failures": ("Lỗi ghi nhận thay đổi", "Capture failures"),
    "outbox": ("Thay đổi chờ xử lý", "Changes to match"),
    "muted": ("Thay đổi tắt tiếng", "Muted changes"),
    "accounts": ("Tài khoản CareSoft", "CareSoft accounts"),
    "account": ("Tài khoản", "Account"),
    "rate": ("Tốc độ", "Pace"),
    "per_second": ("{n} SMS/giây", "{n} SMS/s"),
    "standing": ("Tình trạng", "Standing"),
    "open": ("đang gửi", "open"),
    "stopped_until": ("dừng đến {time}: {reason}", "stopped until {time}: {reason}"),
    "stopped": ("dừng đến khi có người cho chạy lại: {reason}", "stopped until somebody resumes: {reason}"),
    "none": ("không", "none"),
    "pauses": ("Đang tạm dừng", "Pauses"),
    "updated": ("Cập nhật lúc", "As of"),
}


@cache
def words(language: str) -> Mapping[str, str]:
    """The words of one of `LANGUAGES`."""
    place = list(LANGUAGES).index(language)
    return {key: both[place] for key, both in WORDS.items()}
