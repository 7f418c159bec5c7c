-- What the page asks beside sql/queries/views.sql.

-- name: hours
-- How many messages of the last 24 hours ended how, by hour; unclear ones by when they were made.
SELECT hour, state, sum(n)::bigint AS n FROM listener.tally
 WHERE hour > clock_timestamp() - interval '24 hours' GROUP BY hour, state
UNION ALL
SELECT date_trunc('hour', created_at, 'UTC'), state, count(*) FROM listener.message
 WHERE state = 'unknown' AND created_at > clock_timestamp() - interval '24 hours' GROUP BY 1, 2;

-- name: by_rule
-- Messages and parts of each rule by how they ended, since an hour.
SELECT rule, state, sum(n)::bigint AS n, sum(parts)::bigint AS parts FROM listener.tally
 WHERE hour >= %(since)s GROUP BY rule, state HAVING sum(n) <> 0;

-- name: unfinished_by_rule
SELECT rule, state, count(*) AS n FROM listener.message GROUP BY rule, state;

-- name: replicas
SELECT id, version, started_at, seen_at FROM listener.replica
 WHERE seen_at > clock_timestamp() - interval '30 s' ORDER BY started_at;

-- name: pulse
-- Changes whenever anything that the page shows has changed; cheap enough to ask every second.
SELECT (SELECT count(*) FROM listener.outbox) AS outbox,
       (SELECT jsonb_object_agg(state, n) FROM (SELECT state, count(*) AS n FROM listener.message GROUP BY state) AS s) AS states,
       (SELECT jsonb_object_agg(state, n) FROM (SELECT state, sum(n) AS n FROM listener.tally
                                                 WHERE hour > clock_timestamp() - interval '25 hours' GROUP BY state) AS s) AS ended,
       (SELECT last_value FROM listener.message_id) AS newest,
       (SELECT jsonb_agg(to_jsonb(a) - 'next_slot') FROM listener.account AS a) AS accounts,
       (SELECT jsonb_agg(to_jsonb(f)) FROM listener.fleet AS f) AS fleet,
       (SELECT max(id) FROM listener.audit) AS deeds,
       (SELECT jsonb_agg(id ORDER BY id) FROM listener.pause) AS pauses,
       (SELECT jsonb_agg(rule ORDER BY rule) FROM listener.brake) AS brakes,
       (SELECT max(id) FROM listener.muted) AS muted,
       (SELECT jsonb_agg(jsonb_build_array(watch, failure) ORDER BY watch) FROM listener.calendar
         WHERE failure IS NOT NULL) AS failing_selects,
       (SELECT count(*) FROM listener.replica WHERE seen_at > clock_timestamp() - interval '30 s') AS replicas,
       (SELECT last_value FROM listener.capture_failures) AS capture_failures;

-- name: oldest_due
-- For how long the message has been due that has been due for longest, where nothing is known to stop it.
SELECT extract(epoch FROM clock_timestamp() - min(m.due_at))::float8 AS seconds
  FROM listener.message m JOIN listener.account a ON a.name = m.account
 WHERE m.state = 'waiting' AND m.due_at < clock_timestamp()
   AND coalesce(a.stopped_until, '-infinity') < clock_timestamp() AND a.streak = 0;

-- name: held_apart
-- Held messages that neither a pause nor a brake accounts for.
SELECT count(*) AS n FROM listener.message m
 WHERE m.state = 'held' AND m.held_by IS NULL AND NOT EXISTS (SELECT FROM listener.brake b WHERE b.rule = m.rule);

-- name: meanings
-- Of which meanings of the search's words there are messages.
SELECT EXISTS (SELECT FROM listener.tally WHERE rule = %(rule)s::text)
           OR EXISTS (SELECT FROM listener.message WHERE rule = %(rule)s::text) AS rule,
       EXISTS (SELECT FROM listener.message WHERE phone = %(phone)s::text)
           OR EXISTS (SELECT FROM listener.finished WHERE phone = %(phone)s::text) AS phone,
       EXISTS (SELECT FROM listener.message WHERE key = %(key)s::text)
           OR EXISTS (SELECT FROM listener.finished WHERE key = %(key)s::text) AS key,
       EXISTS (SELECT FROM listener.message WHERE coalesce(ticket_id, ticket_sent, ticket_own) = %(number)s::bigint)
           OR EXISTS (SELECT FROM listener.finished WHERE coalesce(ticket_id, ticket_sent, ticket_own) = %(number)s::bigint) AS ticket,
       EXISTS (SELECT FROM listener.message WHERE id = %(number)s::bigint)
           OR EXISTS (SELECT FROM listener.finished WHERE id = %(number)s::bigint) AS id;

-- name: counts
SELECT state, sum(n)::bigint AS n FROM (
    SELECT state, count(*) AS n FROM listener.message
     WHERE (%(rule)s::text IS NULL OR rule = %(rule)s::text)
       AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s::timestamptz)
       AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s::timestamptz)
     GROUP BY state
    UNION ALL
    SELECT state, sum(n) FROM listener.tally
     WHERE (%(rule)s::text IS NULL OR rule = %(rule)s::text)
       AND (%(since)s::timestamptz IS NULL OR hour >= date_trunc('hour', %(since)s::timestamptz, 'UTC'))
       AND (%(until)s::timestamptz IS NULL OR hour < %(until)s::timestamptz)
     GROUP BY state) AS s
 GROUP BY state HAVING sum(n) > 0;

-- name: rule_source
SELECT source FROM listener.rules WHERE version = %(version)s;

-- name: deeds_on
-- What people did to one message by its number; deeds by filter stand on the audit page.
SELECT at, who, verb, reason FROM listener.audit WHERE what @> jsonb_build_object('ids', jsonb_build_array(%(id)s::bigint)) ORDER BY id;

-- name: audit
SELECT id, at, who, verb, what, count, reason FROM listener.audit WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s;

-- name: oldest_unknown
SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS seconds FROM listener.message WHERE state = 'unknown';

-- name: ended
SELECT state, sum(n)::bigint AS n, sum(parts)::bigint AS parts FROM listener.tally GROUP BY state;

-- name: stopped_accounts
SELECT name, CASE WHEN stopped_until > clock_timestamp() THEN 'person' WHEN streak > 0 THEN pause_kind END AS kind
  FROM listener.account;

-- name: fleet_rules
SELECT rules_version, loaded_at, faults FROM listener.fleet;

-- name: versions
SELECT version, loaded_at, source FROM listener.rules WHERE version <= %(upto)s ORDER BY version DESC LIMIT %(limit)s;

-- name: recent_keys
-- Keys of a watch's newest changes, to choose a real row from.
SELECT DISTINCT ON (key) key FROM (
    SELECT key FROM (SELECT watch, key FROM listener.change ORDER BY id DESC LIMIT 500) AS c WHERE watch = %(watch)s LIMIT 200) AS k
 ORDER BY key LIMIT 30;
