-- What every connection is asked, whatever it is for.

-- name: end_frozen
-- Ends our sessions that have waited for long for the rest of a transaction's statements: whoever was to send them stands
-- still, or is gone with its machine, and no time-out counts in the middle of what is sent together.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'listener %%'
   AND state = 'active' AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '5 s';

-- name: set_session
-- What an older server does not know is passed over.
SELECT set_config(name, value, false)
  FROM unnest(%(names)s::text[], %(values)s::text[]) AS s(name, value)
 WHERE current_setting(name, true) IS NOT NULL;

-- name: sizes
-- Changes whenever one of the tables that grow has become about three times as large, or as small; of those kept by day
-- it is today's. To look at others would be to wait for whoever maintains them.
SELECT sum(ceil(ln((1 + pg_relation_size(to_regclass('listener.' || name)) / 8192)::float8)))::bigint AS sizes
  FROM unnest(ARRAY['outbox', 'thread', 'message',
                    'attempt' || to_char(now(), '_YYYYMMDD'), 'finished' || to_char(now(), '_YYYYMMDD')]) AS t(name);
