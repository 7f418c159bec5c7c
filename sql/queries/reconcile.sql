-- Unclear messages whose ticket is known: was the text written on it?

-- name: due
SELECT account FROM listener.message WHERE state = 'unknown' AND ticket_sent IS NOT NULL AND look_at IS NULL
UNION
SELECT account FROM listener.message
 WHERE state = 'unknown' AND ticket_sent IS NOT NULL AND look_at <= statement_timestamp();

-- name: slot
-- One slot of the account, taken from the same pace as every call; none while it is paused, probed or stopped.
UPDATE listener.account
   SET next_slot = CASE WHEN %(interval)s::float8 = 0 THEN next_slot
                        ELSE clock_timestamp() + make_interval(secs => %(interval)s::float8) END
 WHERE name = %(account)s AND streak = 0
   AND (next_slot <= clock_timestamp() OR next_slot > clock_timestamp() + make_interval(secs => 1 + %(interval)s::float8))
   AND (paused_until IS NULL OR paused_until <= clock_timestamp())
   AND (stopped_until IS NULL OR stopped_until <= clock_timestamp())
RETURNING clock_timestamp() AS at;

-- name: take
-- The next to look for, put off until it is to be looked for again: after growing pauses, then never by itself.
WITH next AS (
    SELECT id FROM listener.message
     WHERE state = 'unknown' AND ticket_sent IS NOT NULL AND account = %(account)s
       AND (look_at IS NULL OR look_at <= clock_timestamp())
     ORDER BY look_at NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE listener.message m
       SET looks = m.looks + 1,
           look_at = coalesce(clock_timestamp() + (%(pauses)s::float8[])[m.looks + 1] * interval '1 s', 'infinity')
      FROM next WHERE m.id = next.id
    RETURNING m.id, m.account, m.thread_id, m.lease, m.permits, m.text, m.ticket_sent
)
SELECT t.*, a.leased_at, w.since, w.until
  FROM taken t
  JOIN listener.attempt a ON a.message_id = t.id AND a.n = t.permits AND a.lease = t.lease
 CROSS JOIN LATERAL (SELECT min(x.leased_at) AS since, max(coalesce(x.ended_at, x.leased_at)) AS until
                       FROM listener.attempt x WHERE x.message_id = t.id) AS w;

-- name: not_looked
-- A look whose request was not sent is none: the next one is due at once.
UPDATE listener.message SET looks = looks - 1, look_at = clock_timestamp()
 WHERE id = %(id)s AND lease = %(lease)s AND state = 'unknown' AND looks > 0;

-- name: others
-- Texts of other messages that are, or may be, written on the same ticket in that time.
SELECT text FROM listener.message
 WHERE coalesce(ticket_id, ticket_sent, ticket_own) = %(ticket)s AND id <> %(id)s AND (state = 'sending' OR unsure > 0) AND text IS NOT NULL
UNION ALL
SELECT text FROM listener.finished
 WHERE coalesce(ticket_id, ticket_sent, ticket_own) = %(ticket)s AND id <> %(id)s AND (state = 'accepted' OR unsure > 0)
   AND settled_at BETWEEN %(since)s AND %(until)s AND text IS NOT NULL;
