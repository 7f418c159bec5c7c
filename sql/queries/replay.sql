-- Recorded changes for `replay`: those of one row in the order in which they were made, and were matched.

-- name: total
SELECT count(*) AS n FROM listener.change WHERE matched_at >= %(since)s;

-- name: changes
SELECT id, watch, op, key, old, new, at, matched_at FROM listener.change WHERE matched_at >= %(since)s ORDER BY id;
