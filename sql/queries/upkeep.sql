-- name: make_days
SELECT listener.make_days();

-- name: alive
INSERT INTO listener.replica (id, version) VALUES (%(id)s, %(version)s)
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp();

-- name: notify_queue
SELECT pg_notification_queue_usage() AS usage;

-- name: forget_replicas
DELETE FROM listener.replica WHERE seen_at < clock_timestamp() - interval '1 day';

-- name: gone
DELETE FROM listener.replica WHERE id = %(id)s;

-- name: due_save
-- The next ticket id to write back, kept from other replicas until this transaction ends.
SELECT message_id, rule, ticket_id, params FROM listener.ticket_save
 WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: saved
DELETE FROM listener.ticket_save WHERE message_id = %(id)s;

-- name: save_failed
-- Tried again after a growing pause; given up, and kept for people to see, after 20 times.
UPDATE listener.ticket_save
   SET tries = tries + 1, error = %(error)s,
       due_at = CASE WHEN tries < 20 THEN clock_timestamp() + make_interval(secs => least(600, 2 ^ least(tries, 10))) ELSE 'infinity' END
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
