-- name: table
-- A table by its name as written in SQL, with its columns in order and its primary key; no row if there is none.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS types,
       ARRAY(SELECT a.attname::text FROM pg_index i
               CROSS JOIN unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
              WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place) AS primary_key
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%(table)s);

-- name: tables_like
-- Names near a table that is not there.
SELECT format('%%I.%%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'listener');

-- name: installed_functions
SELECT p.proname::text AS name, p.prosrc AS body, p.prosecdef AS definer, coalesce(p.proconfig, '{}') AS config
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'listener' AND p.prorettype = 'trigger'::regtype AND p.proname LIKE 'capture\_%%';

-- name: installed_triggers
-- Triggers that run a capture function, without the copies that PostgreSQL keeps on partitions.
SELECT t.tgname::text AS name, t.tgrelid::bigint AS oid, n.nspname AS schema, c.relname AS table_name,
       t.tgenabled::text AS enabled, obj_description(t.oid, 'pg_trigger') AS comment, p.proname::text AS function
  FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid
  JOIN pg_namespace pn ON pn.oid = p.pronamespace
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE pn.nspname = 'listener' AND p.proname LIKE 'capture\_%%' AND t.tgparentid = 0;

-- name: unsent
SELECT (SELECT count(*) FROM listener.outbox) + (SELECT count(*) FROM listener.message) AS n;

-- name: habits
SELECT current_setting('fsync') AS fsync, current_setting('max_prepared_transactions')::integer AS prepared,
       (SELECT cache_size::integer FROM pg_sequences WHERE schemaname = 'listener' AND sequencename = 'outbox_id_seq') AS cache;
