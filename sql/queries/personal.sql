-- All that is kept about one phone. `mentions` compares digits, so that every way of writing it is found; `written` is that for a text.
-- Both are regular expressions, of the number of now and of that before 2018.

-- name: no_limit
SELECT set_config('statement_timeout', '0', false);

-- name: limit
SELECT set_config('statement_timeout', '60s', false);

-- name: before
-- Nothing that is made or matched before, and no thread with a lower id, is seen first after this search: with room for
-- transactions that have begun.
SELECT clock_timestamp() - interval '10 min' AS made_after,
       (SELECT coalesce(max(id), 0) - 10000 FROM listener.thread) AS threads_after;

-- name: messages
-- Messages to the phone, and those to others whose text, key or thread names it.
SELECT id FROM listener.message
 WHERE created_at > %(made_after)s
   AND (phone = %(phone)s OR text ~ %(written)s OR key ~ %(written)s OR thread ~ %(written)s)
UNION ALL
SELECT id FROM listener.finished
 WHERE created_at > %(made_after)s
   AND (phone = %(phone)s OR text ~ %(written)s OR key ~ %(written)s OR thread ~ %(written)s)
 ORDER BY id;

-- name: threads
SELECT id FROM listener.thread WHERE id > %(threads_after)s AND listener.mentions(to_jsonb(name), %(digits)s) ORDER BY id;

-- name: theirs
SELECT id FROM listener.message WHERE phone = %(phone)s
UNION ALL
SELECT id FROM listener.finished WHERE phone = %(phone)s ORDER BY id;

-- name: changes
SELECT id FROM listener.change
 WHERE matched_at > %(made_after)s
   AND (id IN (SELECT change_id FROM listener.message WHERE phone = %(phone)s
               UNION ALL SELECT change_id FROM listener.finished WHERE phone = %(phone)s)
        OR listener.mentions(new, %(digits)s) OR listener.mentions(old, %(digits)s)
        OR listener.mentions(to_jsonb(key), %(digits)s))
 ORDER BY id;

-- name: export_messages
SELECT jsonb_strip_nulls(to_jsonb(m)) AS it FROM listener.message m WHERE id = ANY(%(messages)s::bigint[])
UNION ALL
SELECT jsonb_strip_nulls(to_jsonb(f)) FROM listener.finished f
 WHERE id = ANY(%(messages)s::bigint[]) OR (phone IS NULL AND change_id = ANY(%(changes)s::bigint[]));

-- name: export_attempts
SELECT jsonb_strip_nulls(to_jsonb(a)) AS it FROM listener.attempt a WHERE message_id = ANY(%(messages)s::bigint[]) ORDER BY message_id, n;

-- name: export_changes
SELECT to_jsonb(c) AS it FROM listener.change c WHERE id = ANY(%(changes)s::bigint[]) ORDER BY id;

-- name: export_outbox
SELECT to_jsonb(o) AS it FROM listener.outbox o
 WHERE listener.mentions(new, %(digits)s) OR listener.mentions(old, %(digits)s) OR listener.mentions(to_jsonb(key), %(digits)s);

-- name: export_muted
SELECT to_jsonb(m) AS it FROM listener.muted m
 WHERE listener.mentions(new, %(digits)s) OR listener.mentions(old, %(digits)s) OR listener.mentions(to_jsonb(key), %(digits)s);

-- name: export_saves
SELECT to_jsonb(s) AS it FROM listener.ticket_save s
 WHERE message_id = ANY(%(messages)s::bigint[]) OR listener.mentions(params, %(digits)s);

-- name: export_threads
SELECT jsonb_build_object('account', account, 'name', name, 'ticket_id', ticket_id, 'used_on', used_on) AS it
  FROM listener.thread WHERE id = ANY(%(threads)s::bigint[]);

-- name: export_pauses
SELECT to_jsonb(p) AS it FROM listener.pause p WHERE target = 'phone' AND value = %(phone)s;

-- name: export_suppression
SELECT to_jsonb(s) AS it FROM listener.suppression s WHERE phone = %(phone)s;

-- name: lock_threads
SELECT t.id FROM listener.thread t
 WHERE t.id IN (SELECT thread_id FROM listener.message WHERE id = ANY(%(messages)s::bigint[])
                UNION ALL SELECT unnest(%(threads)s::bigint[]))
 ORDER BY t.id FOR UPDATE;

-- name: forget_changes
UPDATE listener.change SET old = NULL, new = NULL, note = 'forgotten',
       key = CASE WHEN listener.mentions(to_jsonb(key), %(digits)s) THEN 'forgotten' ELSE key END
 WHERE id = ANY(%(changes)s::bigint[])
       -- the key may be the phone of somebody else than whom it was forgotten for
   AND (note IS DISTINCT FROM 'forgotten' OR listener.mentions(to_jsonb(key), %(digits)s));

-- name: forget_outbox
DELETE FROM listener.outbox
 WHERE listener.mentions(new, %(digits)s) OR listener.mentions(old, %(digits)s) OR listener.mentions(to_jsonb(key), %(digits)s);

-- name: forget_muted
DELETE FROM listener.muted
 WHERE listener.mentions(new, %(digits)s) OR listener.mentions(old, %(digits)s) OR listener.mentions(to_jsonb(key), %(digits)s);

-- name: forget_messages
-- Also what was rejected for want of a phone, if it came of one of these changes.
UPDATE listener.finished
   SET phone = NULLIF(phone, %(phone)s), text = NULL, save = NULL, joins = NULL, recheck = NULL, ticket_note = NULL,
       -- it may hold the gateway's words
       reason = 'forgotten',
       key = CASE WHEN listener.mentions(to_jsonb(key), %(digits)s) THEN 'forgotten' ELSE key END,
       thread = CASE WHEN listener.mentions(to_jsonb(thread), %(digits)s) THEN 'forgotten:' || coalesce(thread_id, 0) ELSE thread END
 WHERE id = ANY(%(messages)s::bigint[])
    OR (phone IS NULL AND reason IS DISTINCT FROM 'forgotten' AND change_id = ANY(%(changes)s::bigint[]));

-- name: forget_attempts
UPDATE listener.attempt SET detail = NULL WHERE message_id = ANY(%(messages)s::bigint[]) AND detail IS NOT NULL;

-- name: forget_saves
DELETE FROM listener.ticket_save WHERE message_id = ANY(%(messages)s::bigint[]) OR listener.mentions(params, %(digits)s);

-- name: forget_threads
UPDATE listener.thread SET name = 'forgotten:' || id WHERE id = ANY(%(threads)s::bigint[]) AND lease IS NULL;

-- name: left_messages
SELECT state FROM listener.message WHERE id = ANY(%(messages)s::bigint[]);

-- name: suppress
INSERT INTO listener.suppression (phone, reason, who) VALUES (%(phone)s, %(reason)s, %(who)s)
ON CONFLICT (phone) DO UPDATE SET reason = excluded.reason, since = clock_timestamp(), who = excluded.who;

-- name: unsuppress
DELETE FROM listener.suppression WHERE phone = %(phone)s;

-- name: not_sent_yet
SELECT id FROM listener.message WHERE phone = %(phone)s AND state IN ('waiting', 'held') ORDER BY id;
