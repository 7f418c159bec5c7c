-- Recorded changes for `replay`, in the order in which they were matched.

-- name: total
SELECT count(*) AS n FROM listener.change WHERE matched_at >= %(since)s;

-- name: changes
SELECT id, watch, op, key, old, new, at, matched_at FROM listener.change WHERE matched_at >= %(since)s ORDER BY id;

-- name: in_force
SELECT f.rules_version AS version, r.source FROM listener.fleet f JOIN listener.rules r ON r.version = f.rules_version;
