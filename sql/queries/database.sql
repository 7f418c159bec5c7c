-- What every connection is asked, whatever it is for.

-- name: set_session
SELECT set_config(name, value, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS s(name, value);

-- name: sizes
-- Changes whenever one of the tables that grow has become about three times as large, or as small; of those kept by day
-- it is today's. To look at others would be to wait for whoever maintains them.
SELECT sum(ceil(ln((1 + pg_relation_size(to_regclass('listener.' || name)) / 8192)::float8)))::bigint AS sizes
  FROM unnest(ARRAY['outbox', 'thread', 'message',
                    'attempt' || to_char(now(), '_YYYYMMDD'), 'finished' || to_char(now(), '_YYYYMMDD')]) AS t(name);
