-- What a watch by date puts into the outbox. Words in braces are filled in, quoted by the driver.

-- name: into_outbox
-- Rows of an admin's `select`, one for each key, with the columns that rules use.
INSERT INTO listener.outbox (watch, op, key, new)
SELECT DISTINCT ON ({key}) %(watch)s, 'insert', {key}, {value} FROM (
{select}
) AS _row ORDER BY {key}
