-- name: promise
-- "I shall look again within so many milliseconds"; 0 means "ring me from now on".
SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %(ms)s::bigint);

-- name: ring
-- Unless the queue is so full that the ring may fail.
SELECT pg_notify('listener', '') WHERE pg_notification_queue_usage() < 0.5;

-- name: deaf
-- A replica does not hear its own ring.
UPDATE listener.fleet SET deaf_at = clock_timestamp();

-- name: horizon
-- Every transaction that has written anything so far has a smaller id. (`pg_snapshot_xmax` would not do: it is one above
-- the newest id that has ended, and what still runs may be above it.)
SELECT pg_current_xact_id()::text::bigint AS horizon;

-- name: passed
-- Whether every transaction that was in flight at `horizon` has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(horizon)s AS passed;

-- name: alive
-- A sign of life where no promise holds, so that triggers know somebody is there to be rung. `silent` if the last one is
-- so old that a trigger may have thought that nobody is there (after 10 s).
SELECT coalesce(last.ms, 0) < now.ms - 9000 AS silent,
       CASE WHEN last.ms BETWEEN now.ms AND now.ms + 5000 THEN NULL ELSE setval('listener.promise', now.ms) END
  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now,
       (SELECT last_value AS ms FROM listener.promise) AS last;
