-- What people ask: counts, lists, one message.

-- name: counts
SELECT state, sum(n)::bigint AS n FROM (
    SELECT state, count(*) AS n FROM listener.message GROUP BY state
    UNION ALL
    -- what was unclear until its time was over is no longer anybody's concern
    SELECT state, sum(n) FROM listener.tally WHERE state <> 'unknown' GROUP BY state) AS s
 GROUP BY state;

-- name: oldest_waiting
SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS seconds FROM listener.message WHERE state IN ('waiting', 'sending');

-- name: backlog
-- How many messages come due when, in steps of 10 s.
SELECT account, due_s, count(*) AS n
  FROM (SELECT account, greatest(0, 10 * ceil(extract(epoch FROM due_at - clock_timestamp()) / 10))::float8 AS due_s
          FROM listener.message WHERE state IN ('waiting', 'sending')) AS m
 GROUP BY account, due_s ORDER BY account, due_s;

-- name: in_force
SELECT r.source, r.version FROM listener.fleet f JOIN listener.rules r ON r.version = f.rules_version;

-- name: attempts
SELECT n, leased_at, replica, ticket_sent, outcome, http_status, detail, ticket_received, ms, ended_at
  FROM listener.attempt WHERE message_id = %(id)s ORDER BY n;

-- name: one
SELECT * FROM listener.messages WHERE id = %(id)s;

-- name: muted
SELECT count(*) AS n FROM listener.muted WHERE reason <> 'ticket.save';

-- name: outbox
SELECT count(*) AS n, extract(epoch FROM clock_timestamp() - min(at))::float8 AS oldest_s FROM listener.outbox;

-- name: capture_failures
SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS n FROM listener.capture_failures;

-- name: fleet
SELECT rules_version, loaded_at, faults, coalesce(deaf_at > clock_timestamp() - interval '1 min', false) AS deaf,
       pg_notification_queue_usage() AS notify_queue
  FROM listener.fleet;

-- name: replicas
SELECT count(*) AS n FROM listener.replica WHERE seen_at > clock_timestamp() - interval '30 s';

-- name: brakes
-- Rules that their brake holds, and how many messages with it.
SELECT b.rule, b.since, b.reason,
       (SELECT count(*) FROM listener.message m WHERE m.rule = b.rule AND m.state = 'held' AND m.held_by IS NULL) AS held
  FROM listener.brake b ORDER BY b.since;

-- name: failing_selects
SELECT watch, failing_since AS since, failure AS reason FROM listener.calendar WHERE failure IS NOT NULL ORDER BY watch;

-- name: failing_saves
-- Tickets that could not be written back into the ERP so far, by rule, and why one of them could not.
SELECT rule, count(*) AS n, max(error) AS reason
  FROM listener.ticket_save WHERE error IS NOT NULL GROUP BY rule ORDER BY rule;

-- name: lost_replicas
-- Replicas that ended without a word, and that no later one stands for; forgotten after a day.
SELECT count(*) AS n, max(r.seen_at) AS seen_at FROM listener.replica r
 WHERE r.seen_at < clock_timestamp() - interval '30 s'
   AND NOT EXISTS (SELECT FROM listener.replica s
                    WHERE s.seen_at > clock_timestamp() - interval '30 s' AND s.started_at > r.seen_at - interval '30 s');

-- name: seen_failures
-- How many failed captures a person has taken note of.
SELECT coalesce((SELECT (what ->> 'capture_failures')::bigint FROM listener.audit WHERE verb = 'seen' ORDER BY id DESC LIMIT 1), 0) AS n;
