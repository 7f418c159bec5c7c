"""What a random interleaving chooses from, and how often."""

from hypothesis import strategies as st

from listener.model import (
    LockedOut,
    Misconfigured,
    NotSent,
    Outcome,
    RateLimited,
    Rejected,
    Stale,
    TicketRefused,
    Unauthorized,
    Unchecked,
    Unknown,
    Unreachable,
)
from listener.pauses import Scope, Target
from tests.faults.arena import MATCHERS, REPLICAS, SESSIONS
from tests.faults.model import Kind
from tests.support.world import PHONE

TOPICS = ("one", "two", "three")

# what the gateway makes of a request: whether it takes it, and what we see of that
TAKES: dict[str, tuple[bool, Outcome | None]] = {
    "ok": (True, None),
    "the answer is lost": (True, Unknown(cause="no answer in time")),
    "500 after": (True, Unknown(cause="status 500", status=500)),
    "nothing": (False, Unknown(cause="no answer in time")),
    "400": (False, Rejected(reason="no", status=400)),
    "429": (False, RateLimited(retry_after=None)),
    "locked out": (False, LockedOut(minutes=15)),
    "401": (False, Unauthorized(status=401)),
    "a wrong address": (False, Misconfigured(reason="not found", status=404)),
    "no connection": (False, Unreachable(cause="no connection to the gateway")),
    "too late for its slot": (False, NotSent(cause="the slot was too old")),
    "outdated": (False, Stale(reason="the row says something else now")),
    "perhaps outdated": (False, Unchecked(cause="the row could not be read again")),
    "the ticket is gone": (False, TicketRefused(reason="Ticket not found", status=400)),
}
# The usual answer is usual; what stops the account is rare, or nothing else would happen.
STOPS = ["429", "locked out", "401", "a wrong address", "no connection"]
ANSWERS = st.sampled_from(["ok", *(answer for answer in TAKES if answer not in STOPS)] * 4 + STOPS)
# of a request whose answer comes late
FIRST_ANSWERS = st.sampled_from(["ok", "ok", "ok", "the answer is lost", "nothing", "400", "too late for its slot"])
TARGETS = st.sampled_from(
    [
        Target(scope=Scope.ALL),
        Target(scope=Scope.ACCOUNT, value="main"),
        Target(scope=Scope.RULE, value="hold"),
        Target(scope=Scope.RULE, value="resend"),
        Target(scope=Scope.PHONE, value=PHONE),
    ]
)
RARELY = st.sampled_from([False, False, False, True])
ENDS = st.sampled_from(["written down", "written down twice", "later", "later", "killed"])
PICK = st.integers(0, 11)
MATCHER = st.integers(0, MATCHERS - 1)
REPLICA = st.integers(0, REPLICAS - 1)
SESSION = st.integers(0, SESSIONS - 1)
TOPIC = st.sampled_from(TOPICS)
KIND = st.sampled_from([Kind.HOLD, Kind.RESEND, Kind.RESEND, Kind.JOINED])
