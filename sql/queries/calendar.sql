-- name: clock
SELECT clock_timestamp() AS now;

-- name: clocks
SELECT set_config('TimeZone', %(zone)s, true);

-- name: begin
-- A watch that is seen for the first time owes nothing for what was due before.
INSERT INTO listener.calendar (watch, last_day) VALUES (%(watch)s, %(day)s) ON CONFLICT DO NOTHING;

-- name: lock
-- Another replica that is at it does it.
SELECT last_day FROM listener.calendar WHERE watch = %(watch)s FOR UPDATE SKIP LOCKED;

-- name: done
UPDATE listener.calendar SET last_day = %(day)s, failing_since = NULL, failure = NULL WHERE watch = %(watch)s;

-- name: failed
UPDATE listener.calendar SET failing_since = coalesce(failing_since, clock_timestamp()), failure = %(failure)s
 WHERE watch = %(watch)s;
