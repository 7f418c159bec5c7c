-- name: promise
-- "I shall look again within so many milliseconds"; 0 means "ring me from now on".
SELECT setval('listener.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %(ms)s::bigint);

-- name: alive
-- A sign of life where no promise holds, so that triggers know somebody is there to be rung.
SELECT setval('listener.promise', now.ms)
  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now, listener.promise AS p
 WHERE p.last_value < now.ms OR p.last_value > now.ms + 5000;

-- name: horizon
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS horizon;

-- name: passed
-- Whether every transaction that was in flight at `horizon` has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(horizon)s AS passed;

-- name: ring
SELECT pg_notify('listener', '');
