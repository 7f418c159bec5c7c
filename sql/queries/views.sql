-- What people ask: counts, lists, one message.

-- name: counts
SELECT state, sum(n)::bigint AS n FROM (
    SELECT state, count(*) AS n FROM listener.message GROUP BY state
    UNION ALL
    SELECT state, count(*) FROM listener.finished GROUP BY state) AS s
 GROUP BY state;

-- name: oldest_waiting
SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS seconds FROM listener.message WHERE state IN ('waiting', 'sending');

-- name: waiting_by_account
SELECT m.account, count(*) AS n, extract(epoch FROM max(m.due_at) - clock_timestamp())::float8 AS last_due_s,
       extract(epoch FROM (SELECT a.paused_until FROM listener.account a WHERE a.name = m.account) - clock_timestamp())::float8 AS paused_s
  FROM listener.message m WHERE m.state IN ('waiting', 'sending') GROUP BY m.account;

-- name: attempts
SELECT n, leased_at, replica, ticket_sent, outcome, http_status, detail, ticket_received, ms, ended_at
  FROM listener.attempt WHERE message_id = %(id)s ORDER BY n;

-- name: one
SELECT * FROM listener.messages WHERE id = %(id)s;

-- name: muted
SELECT count(*) AS n FROM listener.muted;

-- name: outbox
SELECT count(*) AS n, extract(epoch FROM clock_timestamp() - min(at))::float8 AS oldest_s FROM listener.outbox;

-- name: capture_failures
SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS n FROM listener.capture_failures;

-- name: fleet
SELECT rules_version, loaded_at, faults FROM listener.fleet;

-- name: replicas
SELECT count(*) AS n FROM listener.replica WHERE seen_at > clock_timestamp() - interval '30 s';
