-- What a person does by hand: each a conditional change of state, under the same locks as the daemon's own.

-- name: my_turn
-- One deed at a time, so that what a pause or another person's deed decides is seen whole.
SELECT pg_advisory_xact_lock(7466382155);

-- name: lock_matcher
-- No message is being made until this transaction ends, and those made afterwards see what it decided.
SELECT pg_advisory_xact_lock(7466382154);

-- name: threads_again
-- The threads of finished messages, should they be gone.
INSERT INTO listener.thread (account, name)
SELECT DISTINCT account, thread FROM listener.finished WHERE id = ANY(%(ids)s::bigint[]) AND state IN ('rejected', 'expired')
ON CONFLICT DO NOTHING;

-- name: lock_threads
-- In the order of their ids, as everybody does.
SELECT t.id FROM listener.thread t
 WHERE t.id IN (SELECT m.thread_id FROM listener.message m WHERE m.id = ANY(%(ids)s::bigint[])
                UNION ALL
                SELECT x.id FROM listener.finished f JOIN listener.thread x ON x.account = f.account AND x.name = f.thread
                 WHERE f.id = ANY(%(ids)s::bigint[]) AND f.state IN ('rejected', 'expired'))
 ORDER BY t.id FOR UPDATE;

-- name: end_ticket_wait
-- Somebody has decided: nobody in these threads waits any longer for the ticket that an unclear message may have made.
UPDATE listener.thread SET ticket_wait_until = NULL
 WHERE id = ANY(%(threads)s::bigint[]) AND lease IS NULL AND ticket_wait_until IS NOT NULL;

-- name: retry
-- Once more, now, with its time to live begun anew. What a pause holds stays with it; what is unclear comes to it.
UPDATE listener.message m
   SET state = 'waiting', held_by = NULL, reason = %(note)s, due_at = clock_timestamp(), looks = 0, look_at = NULL,
       expires_at = clock_timestamp() + coalesce(make_interval(secs => (%(lives)s::jsonb ->> m.rule)::float8),
                                                 greatest(m.expires_at - m.created_at, interval '1 hour'))
 WHERE m.id = ANY(%(ids)s::bigint[]) AND m.state IN ('unknown', 'held') AND m.held_by IS NULL
   AND NOT EXISTS (SELECT FROM listener.suppression s WHERE s.phone = m.phone)
RETURNING m.id, m.state;

-- name: retry_finished
-- Expired ones, and those that the gateway refused, back into the queue.
WITH back AS (
    DELETE FROM listener.finished f
     WHERE f.id = ANY(%(ids)s::bigint[]) AND (f.state = 'expired' OR f.state = 'rejected' AND f.permits > 0)
       AND f.phone IS NOT NULL AND f.text IS NOT NULL
       AND NOT EXISTS (SELECT FROM listener.suppression s WHERE s.phone = f.phone)
       AND NOT EXISTS (SELECT FROM listener.message m
                        WHERE m.change_id = f.change_id AND m.rule = f.rule AND m.phone = f.phone)
    RETURNING f.*
)
INSERT INTO listener.message (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_note, no_ticket,
                              if_unsure, max_block, permits, attempts, unsure, save, recheck, quiet_at, quiet_until,
                              created_at, order_at, expires_at, lease)
SELECT b.id, b.change_id, b.rule, b.rules_version, b.watch, b.key, b.account, t.id, b.thread, b.priority, b.phone,
       b.text, b.parts, b.encoding, 'waiting', %(note)s, b.ticket_own, b.ticket_sent, b.ticket_note, b.no_ticket,
       b.if_unsure, b.max_block, b.permits, b.attempts, b.unsure, b.save, b.recheck, b.quiet_at, b.quiet_until,
       b.created_at, b.order_at,
       clock_timestamp() + coalesce(make_interval(secs => (%(lives)s::jsonb ->> b.rule)::float8),
                                    greatest(b.expires_at - b.created_at, interval '1 hour')), b.lease
  FROM back b JOIN listener.thread t ON t.account = b.account AND t.name = b.thread
RETURNING id, state;

-- name: unsent
-- Messages that were rejected before any request was made, with the changes that they came of, as far as these are kept.
SELECT f.id, f.rule, f.phone, c.id AS change_id, c.watch, c.op, c.key, c.old, c.new, c.at
  FROM listener.finished f
  LEFT JOIN listener.change c ON c.id = f.change_id AND (c.old IS NOT NULL OR c.new IS NOT NULL)
 WHERE f.id = ANY(%(ids)s::bigint[]) AND f.state = 'rejected' AND f.permits = 0
 ORDER BY f.id;

-- name: clock
SELECT clock_timestamp() AS now;

-- name: had
-- The phones that a rule's messages of a change went to, or will.
SELECT phone FROM listener.message WHERE change_id = %(change)s AND rule = %(rule)s AND id <> %(id)s
UNION
SELECT phone FROM listener.finished
 WHERE change_id = %(change)s AND rule = %(rule)s AND id <> %(id)s AND phone = ANY(%(phones)s::text[])
UNION
SELECT phone FROM listener.suppression WHERE phone = ANY(%(phones)s::text[]);

-- name: drop_rejected
DELETE FROM listener.finished WHERE id = %(id)s AND state = 'rejected' AND permits = 0 RETURNING id;

-- name: keep_id
UPDATE listener.message SET id = %(id)s, reason = CASE WHEN state = 'waiting' THEN %(note)s ELSE reason END
 WHERE change_id = %(change)s AND rule = %(rule)s AND phone = %(phone)s
RETURNING id, state;

-- name: cancel
-- What `ticket.save` needs is kept: the answer to a request may still come.
WITH gone AS (
    DELETE FROM listener.message
     WHERE id = ANY(%(ids)s::bigint[]) AND state IN ('waiting', 'held', 'unknown')
    RETURNING *
)
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                               phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                               permits, attempts, unsure, save, created_at, order_at, due_at, expires_at, settled_at,
                               lease)
SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts, encoding,
       'cancelled', %(note)s || CASE WHEN unsure > 0 OR state = 'unknown' THEN '; perhaps sent before' ELSE '' END,
       ticket_own, ticket_sent, ticket_id, permits, attempts, unsure, save, created_at, order_at, due_at, expires_at,
       clock_timestamp(), lease
  FROM gone
RETURNING id, state;

-- name: arrived
-- An unclear one that a person knows to have arrived. Its ticket is not known; should the answer still come, it is.
WITH gone AS (
    DELETE FROM listener.message WHERE id = ANY(%(ids)s::bigint[]) AND state = 'unknown' RETURNING *
)
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                               phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                               permits, attempts, unsure, save, created_at, order_at, due_at, expires_at, settled_at,
                               lease)
SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts, encoding,
       'accepted', %(note)s, ticket_own, ticket_sent, ticket_id, permits, attempts, unsure, save, created_at, order_at,
       due_at, expires_at, clock_timestamp(), lease
  FROM gone
RETURNING id, state;

-- name: release
UPDATE listener.message SET state = 'waiting', held_by = NULL, reason = %(note)s
 WHERE id = ANY(%(ids)s::bigint[]) AND state = 'held' AND held_by IS NULL
   AND NOT EXISTS (SELECT FROM listener.suppression s WHERE s.phone = message.phone)
RETURNING id, state;

-- name: too_old
SELECT id FROM listener.message WHERE id = ANY(%(ids)s::bigint[]) AND state = 'waiting' AND expires_at <= clock_timestamp();

-- name: release_brakes
-- What the rule made so far was meant, so its count begins anew: or its next message would be held again.
WITH counted AS (DELETE FROM listener.rule_minute WHERE rule = %(rule)s)
DELETE FROM listener.brake WHERE rule = %(rule)s RETURNING rule;

-- name: standing
-- How the messages asked for stand, for those that were left alone.
SELECT id, state, held_by IS NOT NULL AS paused, true AS whole FROM listener.message WHERE id = ANY(%(ids)s::bigint[])
UNION ALL
SELECT id, state, false, phone IS NOT NULL AND text IS NOT NULL FROM listener.finished WHERE id = ANY(%(ids)s::bigint[]);

-- name: who
SELECT session_user::text AS role;

-- name: audit
INSERT INTO listener.audit (who, verb, what, count, reason)
VALUES (%(who)s, %(verb)s, %(what)s::jsonb, %(count)s, %(reason)s);

-- name: pause
INSERT INTO listener.pause (target, value, reason, until, who)
VALUES (%(target)s, %(value)s, %(reason)s, %(until)s, %(who)s)
ON CONFLICT (target, value) DO UPDATE
   SET reason = excluded.reason, until = excluded.until, who = excluded.who, since = clock_timestamp()
RETURNING id;

-- name: resume
-- Not later than now, should the clock have been set back since it began.
UPDATE listener.pause SET until = least(since, clock_timestamp())
 WHERE target = %(target)s AND value = %(value)s AND (until IS NULL OR until > clock_timestamp())
RETURNING id;

-- name: pauses
SELECT id, target, value, reason, until, since, who FROM listener.pause
 WHERE until IS NULL OR until > clock_timestamp() ORDER BY target, value;

-- name: stop_accounts
-- Brings the accounts' rows in line with the pauses of people; waits for the permits that are being taken.
UPDATE listener.account a
   SET stopped_until = w.until, stopped_reason = w.reason
  FROM (SELECT b.name, p.until, p.reason FROM listener.account b LEFT JOIN LATERAL listener.account_stop(b.name) AS p ON true) AS w
 WHERE a.name = w.name AND (a.stopped_until, a.stopped_reason) IS DISTINCT FROM (w.until, w.reason);

-- name: lock_accounts
SELECT name FROM listener.account ORDER BY name FOR UPDATE;

-- name: lock_paused_threads
-- All threads with an unfinished message of the rule or phone: one that is being sent may come back.
SELECT t.id FROM listener.thread t
 WHERE t.id IN (SELECT m.thread_id FROM listener.message m
                 WHERE (%(target)s = 'rule' AND m.rule = %(value)s) OR (%(target)s = 'phone' AND m.phone = %(value)s))
 ORDER BY t.id FOR UPDATE;

-- name: hold
UPDATE listener.message m
   SET state = 'held', held_by = %(pause)s, reason = format('the %%s is paused: %%s', %(target)s::text, %(reason)s::text)
 WHERE (m.state = 'waiting' OR m.held_by = %(pause)s)
   AND ((%(target)s = 'rule' AND m.rule = %(value)s) OR (%(target)s = 'phone' AND m.phone = %(value)s))
RETURNING m.thread_id;

-- name: ended_pauses
-- Pauses whose time is over.
UPDATE listener.pause SET until = since WHERE until > since AND until <= clock_timestamp() RETURNING id, target, value;

-- name: lift
-- Pauses that are over hold nothing in this transaction.
UPDATE listener.pause SET until = '-infinity' WHERE until <= since RETURNING id;

-- name: stand_on
UPDATE listener.pause SET until = least(since, clock_timestamp()) WHERE id = ANY(%(pauses)s::bigint[]);

-- name: be_gone
DELETE FROM listener.pause WHERE id = ANY(%(pauses)s::bigint[]);

-- name: gone_pauses
-- Pauses that are gone and still hold something: it came to them in a transaction that ended after they did. From one to the
-- next by the index, however much each of them holds.
WITH RECURSIVE holder(id) AS (
    SELECT min(held_by) FROM listener.message WHERE held_by IS NOT NULL
     UNION ALL
    SELECT (SELECT min(m.held_by) FROM listener.message m WHERE m.held_by > h.id) FROM holder h WHERE h.id IS NOT NULL
)
SELECT h.id FROM holder h WHERE h.id IS NOT NULL AND NOT EXISTS (SELECT FROM listener.pause p WHERE p.id = h.id);

-- name: will_wait
-- Of what those pauses hold, what no other one stops.
SELECT count(*) AS n FROM listener.message m
 WHERE m.held_by = ANY(%(pauses)s::bigint[])
   AND NOT EXISTS (SELECT FROM listener.pause p
                    WHERE (p.target = 'rule' AND p.value = m.rule OR p.target = 'phone' AND p.value = m.phone)
                      AND p.id <> ALL(%(pauses)s::bigint[]))
   AND NOT EXISTS (SELECT FROM listener.suppression s WHERE s.phone = m.phone);

-- name: still_held
SELECT id FROM listener.message WHERE held_by = ANY(%(pauses)s::bigint[]) ORDER BY id LIMIT %(limit)s;

-- name: let_on
-- Exactly what those pauses held; what another pause stops too is held by that one from now on.
UPDATE listener.message SET state = 'waiting', reason = NULL
 WHERE id = ANY(%(ids)s::bigint[]) AND held_by = ANY(%(pauses)s::bigint[]);

-- name: muted
-- What can be released, the most first: not what `ticket.save` wrote, which is to trigger no rule.
SELECT watch, reason, count(*) AS n, min(at) AS since FROM listener.muted
 WHERE reason <> 'ticket.save' AND (%(watch)s::text IS NULL OR watch = %(watch)s)
   AND (%(muted_for)s::text IS NULL OR reason = %(muted_for)s)
 GROUP BY watch, reason ORDER BY n DESC, watch, reason;

-- name: release_muted
-- Muted changes join the normal flow, in their order and with the time at which they were made.
WITH gone AS (
    DELETE FROM listener.muted
     WHERE reason <> 'ticket.save' AND (%(watch)s::text IS NULL OR watch = %(watch)s)
       AND (%(muted_for)s::text IS NULL OR reason = %(muted_for)s)
    RETURNING *
)
INSERT INTO listener.outbox (watch, op, key, old, new, at)
SELECT watch, op, key, old, new, at FROM gone ORDER BY gone.id;
