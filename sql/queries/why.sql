-- What `why` tells: the newest of each, found by index.

-- name: changes_of_key
SELECT id, watch, op, key, old, new, at, matched_at, note, rules_version
  FROM listener.change WHERE key = %(key)s ORDER BY id DESC LIMIT %(limit)s;

-- name: changes
SELECT id, watch, op, key, old, new, at, matched_at, note, rules_version
  FROM listener.change WHERE id = ANY(%(ids)s::bigint[]);

-- name: unmatched_of_key
SELECT id, watch, op, key, old, new, at FROM listener.outbox WHERE key = %(key)s ORDER BY id DESC LIMIT %(limit)s;

-- name: muted_of_key
SELECT id, watch, op, key, old, new, at, reason FROM listener.muted WHERE key = %(key)s ORDER BY id DESC LIMIT %(limit)s;

-- name: changes_of_phone
-- The changes whose messages went, or were to go, to a phone.
SELECT DISTINCT change_id FROM (
    (SELECT change_id FROM listener.message WHERE phone = %(phone)s ORDER BY id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT change_id FROM listener.finished WHERE phone = %(phone)s ORDER BY id DESC LIMIT %(limit)s)) AS m
 ORDER BY change_id DESC LIMIT %(limit)s;

-- name: messages
SELECT id, change_id, rule, rules_version, account, thread, phone, text, parts, state, reason,
       coalesce(ticket_id, ticket_sent, ticket_own) AS ticket_id, joins IS NOT NULL AS joins, attempts,
       created_at, due_at, expires_at, settled_at, clock_timestamp() AS now,
       -- until when it waits for the ticket that an unanswered message of its thread may have made
       (SELECT t.ticket_wait_until FROM listener.thread t
         WHERE t.id = m.thread_id AND m.state = 'waiting' AND m.ticket_own IS NULL AND t.ticket_id IS NULL
           AND t.ticket_wait_until > clock_timestamp()) AS ticket_wait
  FROM listener.message m WHERE change_id = ANY(%(ids)s::bigint[])
UNION ALL
SELECT id, change_id, rule, rules_version, account, thread, phone, text, parts, state, reason,
       coalesce(ticket_id, ticket_sent, ticket_own), false, attempts,
       created_at, due_at, expires_at, settled_at, clock_timestamp(), NULL
  FROM listener.finished WHERE change_id = ANY(%(ids)s::bigint[]);

-- name: attempts
SELECT message_id, n, leased_at, outcome, http_status, detail, ticket_sent, ticket_received
  FROM listener.attempt WHERE message_id = ANY(%(ids)s::bigint[]);

-- name: sources
SELECT version, source FROM listener.rules WHERE version = ANY(%(versions)s::integer[]);

-- name: accounts
SELECT name, greatest(paused_until, stopped_until) AS until,
       CASE WHEN stopped_until IS NULL OR paused_until > stopped_until THEN pause_reason ELSE stopped_reason END AS reason
  FROM listener.account WHERE greatest(paused_until, stopped_until) > clock_timestamp();

-- name: suppression
SELECT reason, since, who FROM listener.suppression WHERE phone = %(phone)s;

-- name: pauses
-- What people stopped and let go again while these messages were on their way.
SELECT at, who, verb, reason, coalesce(what -> 'targets', jsonb_build_array(what -> 'target')) AS targets,
       (what ->> 'until')::timestamptz AS until
  FROM listener.audit
 WHERE verb IN ('pause', 'resume') AND at BETWEEN %(since)s AND %(until)s
   AND coalesce(what -> 'targets', jsonb_build_array(what -> 'target')) ?| %(targets)s::text[]
 ORDER BY id LIMIT %(limit)s;
