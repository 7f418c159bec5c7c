-- name: lock
-- One matcher at a time; the lock ends with its transaction, so a dead or frozen matcher is replaced in seconds.
SELECT set_config('listener.matcher', pg_try_advisory_xact_lock(7466382154)::text, true) = 'true' AS mine,
       (SELECT rules_version FROM listener.fleet) AS version,
       EXISTS (SELECT FROM listener.suppression) AS suppression;

-- name: glance
SELECT EXISTS (SELECT FROM listener.outbox) AS anything;

-- name: take
-- The oldest changes, if this transaction holds the matcher's lock: as many as together take half a megabyte on the disk,
-- compressed, or the first one.
SELECT id, watch, op, key, old, new, at, now() AS now
  FROM (SELECT o.*, sum(coalesce(pg_column_size(old), 0) + coalesce(pg_column_size(new), 0))
                    OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (SELECT * FROM listener.outbox
                 WHERE current_setting('listener.matcher', true) = 'true' ORDER BY id LIMIT %(limit)s) AS o) AS b
 WHERE coalesce(before, 0) < 524288 ORDER BY id;

-- name: set_aside
-- Moves a change that nothing can be made of to the history, where its key has to fit into an index; unless another matcher
-- is at it.
WITH gone AS (
    DELETE FROM listener.outbox WHERE id = %(id)s AND (SELECT pg_try_advisory_xact_lock(7466382154)) RETURNING *
)
INSERT INTO listener.change (id, watch, op, key, old, new, at, matched_at, note, rules_version)
SELECT id, watch, op, left(key, 500), old, new, at, clock_timestamp(), %(note)s, %(version)s FROM gone;

-- name: done
-- Moves matched changes to the history.
WITH gone AS (
    DELETE FROM listener.outbox WHERE id = ANY(%(ids)s::bigint[]) RETURNING *
)
INSERT INTO listener.change (id, watch, op, key, old, new, at, matched_at, note, rules_version)
SELECT g.id, g.watch, g.op, g.key, g.old, g.new, g.at, clock_timestamp(), n.note, %(version)s
  FROM gone g LEFT JOIN unnest(%(noted)s::bigint[], %(notes)s::text[]) AS n(id, note) USING (id);
