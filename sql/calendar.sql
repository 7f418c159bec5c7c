-- What a watch by date puts into the outbox. Words in braces are filled in, quoted by the driver.

-- name: into_outbox
-- Rows of an admin's `select`, one for each key, with the columns that rules use; and how many there were.
WITH found AS MATERIALIZED (
    SELECT {key} AS key, {value} AS value FROM (
{select}
) AS _row
), made AS (
    INSERT INTO listener.outbox (watch, op, key, new)
    SELECT DISTINCT ON (key) %(watch)s, 'insert', key, value FROM found ORDER BY key
    RETURNING id
)
SELECT (SELECT count(*) FROM made) AS made, (SELECT count(*) FROM found) AS found
