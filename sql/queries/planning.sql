-- What a batch must know of messages made before. One matcher works at a time, so what is read here holds until it
-- commits, except that a message may be leased meanwhile: `replace` tells by its count.

-- name: open_groups
-- Messages that newer changes of the same thing may still replace: none that was perhaps sent.
SELECT m.id, m.rule, m.key, m.joins, m.account, m.thread
  FROM listener.message m
  JOIN (SELECT DISTINCT * FROM unnest(%(rules)s::text[], %(keys)s::text[])) AS w(rule, key)
    ON m.rule = w.rule AND m.key = w.key
 WHERE m.state = 'waiting' AND m.joins IS NOT NULL AND m.unsure = 0;

-- name: sent_to
-- How many messages of a rule a phone was given in its last so many seconds, but those that are about to give way.
SELECT w.rule, w.phone,
       (SELECT count(*) FROM listener.message m
         WHERE m.phone = w.phone AND m.rule = w.rule AND m.created_at > now() - make_interval(secs => w.seconds)
           AND m.id <> ALL(%(replaced)s::bigint[]))
       + (SELECT count(*) FROM listener.finished f
           WHERE f.phone = w.phone AND f.rule = w.rule AND f.state = 'accepted'
             AND f.created_at > now() - make_interval(secs => w.seconds)
             AND f.settled_at > now() - make_interval(secs => w.seconds)) AS n
  FROM (SELECT DISTINCT * FROM unnest(%(rules)s::text[], %(phones)s::text[], %(seconds)s::float8[])) AS w(rule, phone, seconds);

-- name: braked
-- How many messages each rule made in its last so many seconds, and whether its brake holds.
SELECT w.rule, EXISTS (SELECT FROM listener.brake b WHERE b.rule = w.rule) AS held,
       (SELECT coalesce(sum(c.n), 0) FROM listener.rule_minute c
         WHERE c.rule = w.rule AND c.minute > now() - make_interval(secs => w.seconds)) AS n
  FROM unnest(%(rules)s::text[], %(seconds)s::float8[]) AS w(rule, seconds);

-- name: count_minute
INSERT INTO listener.rule_minute (rule, minute, n)
SELECT rule, date_trunc('minute', now()), n FROM unnest(%(rules)s::text[], %(counts)s::integer[]) AS w(rule, n)
ON CONFLICT (rule, minute) DO UPDATE SET n = rule_minute.n + excluded.n;

-- name: pull_brake
INSERT INTO listener.brake (rule, reason) SELECT * FROM unnest(%(rules)s::text[], %(reasons)s::text[])
ON CONFLICT DO NOTHING;

-- name: suppressed
SELECT phone FROM listener.suppression WHERE phone = ANY(%(phones)s::text[]);

-- name: replace
-- Waiting messages that give way to newer changes. Fewer rows than ids: one of them is or was being sent, look again.
WITH gone AS (
    DELETE FROM listener.message m
     USING unnest(%(ids)s::bigint[], %(reasons)s::text[]) AS r(id, why)
     WHERE m.id = r.id AND m.state = 'waiting' AND m.unsure = 0
    RETURNING m.*, r.why
)
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                               phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                               permits, attempts, unsure, created_at, order_at, due_at, expires_at, settled_at, lease)
SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts, encoding,
       'superseded', why, ticket_own, ticket_sent, ticket_id, permits, attempts, unsure, created_at, order_at, due_at,
       expires_at, clock_timestamp(), lease
  FROM gone
RETURNING id;

-- name: supersede
-- Unsent messages of other rules in the same thread that a newer message makes pointless (`supersedes`).
WITH gone AS (
    DELETE FROM listener.message m
     USING json_to_recordset(%(rows)s::json) AS s(account text, thread text, by text, change_id bigint, rules jsonb)
     WHERE m.account = s.account AND m.thread = s.thread AND m.state IN ('waiting', 'held')
       AND m.thread_id = (SELECT t.id FROM listener.thread t WHERE t.account = s.account AND t.name = s.thread)
       AND s.rules ? m.rule AND m.change_id < s.change_id AND m.unsure = 0
    RETURNING m.*, s.by
)
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                               phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                               permits, attempts, unsure, created_at, order_at, due_at, expires_at, settled_at, lease)
SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts, encoding,
       'superseded', 'a newer message of the rule ' || by || ' replaces it', ticket_own, ticket_sent, ticket_id, permits,
       attempts, unsure, created_at, order_at, due_at, expires_at, clock_timestamp(), lease
  FROM gone;
