-- name: register
-- The number of this very text; a new one for a text that was never in force.
WITH known AS (
    SELECT version FROM listener.rules WHERE sha256 = %(sha256)s
), added AS (
    INSERT INTO listener.rules (sha256, source)
    SELECT %(sha256)s, %(source)s WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (sha256) DO UPDATE SET sha256 = excluded.sha256
    RETURNING version
)
SELECT version FROM known UNION ALL SELECT version FROM added;

-- name: in_force
UPDATE listener.fleet SET rules_version = %(version)s, faults = '[]',
       loaded_at = CASE WHEN rules_version IS DISTINCT FROM %(version)s THEN clock_timestamp() ELSE loaded_at END;

-- name: broken
UPDATE listener.fleet SET faults = %(faults)s::jsonb;

-- name: fleet
-- The rules in force, and the migrations that made the schema.
SELECT rules_version, ARRAY(SELECT name FROM listener.migration ORDER BY number) AS migrations FROM listener.fleet;

-- name: source
SELECT source FROM listener.rules WHERE version = %(version)s;

-- name: in_use
-- The text in force, the number of a text if it was ever in force, and whether other replicas are at work.
SELECT f.rules_version AS version, r.source, (SELECT k.version FROM listener.rules k WHERE k.sha256 = %(sha256)s) AS known,
       EXISTS (SELECT FROM listener.replica WHERE seen_at > clock_timestamp() - interval '30 s') AS others
  FROM listener.fleet f LEFT JOIN listener.rules r ON r.version = f.rules_version;
