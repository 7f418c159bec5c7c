-- What is removed when its time is over: whole days at once, a few rows at a time where there are no days.

-- name: drop_day
SELECT dropped, more FROM listener.drop_day(make_interval(secs => %(keep)s::float8));

-- name: blank
-- Phone and text of finished messages in a state that is kept for less time than the rest, a key or thread that is a
-- phone, and the rows that they came of, unless another message of the same change is still kept whole.
-- Arrays, so that no plan ever walks a whole day for a few rows.
WITH old AS (
    SELECT id, settled_at, change_id FROM listener.finished
     WHERE state = %(state)s AND settled_at < statement_timestamp() - make_interval(secs => %(keep)s::float8)
       AND reason IS DISTINCT FROM 'phone and text were removed after their time'
     ORDER BY settled_at LIMIT %(limit)s
), blanked AS (
    UPDATE listener.finished f
       SET phone = NULL, text = NULL, save = NULL, joins = NULL, recheck = NULL, ticket_note = NULL,
           reason = 'phone and text were removed after their time',
           key = CASE WHEN listener.names_phone(key) THEN 'removed' ELSE key END,
           thread = CASE WHEN listener.names_phone(thread) THEN 'removed' ELSE thread END
      FROM old WHERE f.id = old.id AND f.settled_at = old.settled_at
), quiet AS (
    UPDATE listener.attempt SET detail = NULL WHERE message_id = ANY(ARRAY(SELECT id FROM old)) AND detail IS NOT NULL
), emptied AS (
    UPDATE listener.change SET old = NULL, new = NULL, note = 'removed after its time',
           key = CASE WHEN listener.names_phone(key) THEN 'removed' ELSE key END
     WHERE id = ANY(ARRAY(SELECT change_id FROM old))
       AND id <> ALL(ARRAY(SELECT m.change_id FROM listener.message m WHERE m.change_id = ANY(ARRAY(SELECT change_id FROM old))))
       AND id <> ALL(ARRAY(SELECT f.change_id FROM listener.finished f
                            WHERE f.change_id = ANY(ARRAY(SELECT change_id FROM old)) AND f.id <> ALL(ARRAY(SELECT id FROM old))
                              AND (f.phone IS NOT NULL OR f.text IS NOT NULL)))
)
SELECT count(*) AS n FROM old;

-- name: give_up
-- Held and unclear messages that nobody decided about in all that time. Their counts stay: what was held has expired.
WITH old AS (
    SELECT id FROM listener.message
     WHERE state = %(state)s AND created_at < statement_timestamp() - make_interval(secs => %(keep)s::float8)
     ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM listener.message m USING old WHERE m.id = old.id RETURNING m.created_at, m.rule, m.state, m.parts
), counted AS (
    INSERT INTO listener.tally (hour, rule, state, n, parts)
    SELECT date_trunc('hour', created_at, 'UTC'), rule, CASE state WHEN 'held' THEN 'expired' ELSE state END,
           count(*), coalesce(sum(parts), 0) FROM gone GROUP BY 1, 2, 3
)
SELECT count(*) AS n FROM gone;

-- name: old_muted
-- Ids grow with time: only the first few are looked at.
WITH gone AS (
    DELETE FROM listener.muted
     WHERE id IN (SELECT id FROM (SELECT id, at FROM listener.muted ORDER BY id LIMIT %(limit)s) AS first
                   WHERE at < clock_timestamp() - make_interval(secs => %(keep)s::float8))
    RETURNING id
)
SELECT count(*) AS n FROM gone;

-- name: old_saves
-- Tickets that could not be written back, once their message is gone.
WITH gone AS (
    DELETE FROM listener.ticket_save s
     WHERE s.error IS NOT NULL AND NOT EXISTS (SELECT FROM listener.finished f WHERE f.id = s.message_id AND f.text IS NOT NULL)
    RETURNING message_id
)
SELECT count(*) AS n FROM gone;

-- name: any_old_threads
SELECT EXISTS (SELECT FROM listener.thread
                WHERE of_phone AND used_on < current_date - make_interval(secs => %(keep)s::float8)) AS old;

-- name: old_threads
-- Threads named by a phone in which nothing was sent for so long; nobody makes messages meanwhile.
WITH gone AS (
    DELETE FROM listener.thread
     WHERE id IN (SELECT t.id FROM listener.thread t
                   WHERE t.of_phone AND t.used_on < current_date - make_interval(secs => %(keep)s::float8)
                     AND t.lease IS NULL AND NOT EXISTS (SELECT FROM listener.message m WHERE m.thread_id = t.id)
                   ORDER BY t.used_on LIMIT %(limit)s)
    RETURNING id
)
SELECT count(*) AS n FROM gone;

-- name: old_minutes
WITH gone AS (
    DELETE FROM listener.rule_minute
     WHERE (rule, minute) IN (SELECT rule, minute FROM listener.rule_minute
                               WHERE minute < statement_timestamp() - make_interval(secs => %(keep)s::float8) LIMIT %(limit)s)
    RETURNING 1
)
SELECT count(*) AS n FROM gone;
