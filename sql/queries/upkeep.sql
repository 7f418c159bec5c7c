-- name: glance
-- What there is to do: most rounds are this one statement, and each part of it is one probe of an index or of a table with
-- a few rows. (A minimum is always read from the index's end; for EXISTS a whole table may be thought to be quick.)
-- `days`: a partition of today or tomorrow is missing.
SELECT (SELECT min(lease_until) FROM listener.message WHERE state = 'sending') < clock_timestamp() AS leases,
       (SELECT min(expires_at) FROM listener.message WHERE state = 'waiting') <= clock_timestamp() AS expired,
       EXISTS (SELECT FROM listener.pause WHERE until <= clock_timestamp()) AS pauses,
       EXISTS (SELECT FROM listener.account WHERE paused_at > clock_timestamp() + interval '5 s') AS clock,
       (SELECT min(due_at) FROM listener.ticket_save) <= clock_timestamp() AS saves,
       (SELECT count(*) FROM pg_inherits
         WHERE inhrelid = ANY(ARRAY(
             SELECT to_regclass('listener.' || parent || to_char((now() AT TIME ZONE 'UTC')::date + n, '_YYYYMMDD'))::oid
               FROM unnest(ARRAY['finished', 'attempt', 'change']) AS p(parent), generate_series(0, 1) AS n))) < 6 AS days;

-- name: make_days
SELECT listener.make_days();

-- name: alive
-- A sign of life; by the way, what time it is.
INSERT INTO listener.replica (id, version) VALUES (%(id)s, %(version)s)
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
RETURNING extract(epoch FROM clock_timestamp())::float8 AS now;

-- name: notify_queue
SELECT pg_notification_queue_usage() AS usage;

-- name: forget_replicas
DELETE FROM listener.replica WHERE seen_at < clock_timestamp() - interval '1 day';

-- name: gone
DELETE FROM listener.replica WHERE id = %(id)s;

-- name: due_save
-- The next ticket id to write back, kept from other replicas until this transaction ends.
SELECT message_id, rule, ticket_id, params FROM listener.ticket_save
 WHERE due_at <= statement_timestamp() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: saved
DELETE FROM listener.ticket_save WHERE message_id = %(id)s;

-- name: save_failed
-- Tried again after a growing pause, in the end once an hour: until somebody has mended it, or the message is removed.
UPDATE listener.ticket_save
   SET tries = tries + 1, error = %(error)s,
       due_at = clock_timestamp() + make_interval(secs => least(3600, 2 ^ least(tries, 12)))
 WHERE message_id = %(id)s;

-- name: fold_tally
-- Sums the counts up to one row an hour, rule and state; whoever else is at it is left to it.
WITH mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(7466382156) AS mine
), loose AS (
    SELECT hour, rule, state FROM listener.tally WHERE (SELECT mine FROM mine)
     GROUP BY hour, rule, state HAVING count(*) > 1
), gone AS (
    DELETE FROM listener.tally t USING loose l
     WHERE t.hour = l.hour AND t.rule = l.rule AND t.state = l.state RETURNING t.*
)
INSERT INTO listener.tally SELECT hour, rule, state, sum(n), sum(parts) FROM gone GROUP BY hour, rule, state;
