-- name: table
-- A table by its name as written in SQL, with its columns in order and its primary key; no row if there is none.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relpersistence = 't' AS temporary, pg_has_role(c.relowner, 'USAGE') AS owned,
       (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                            'base', base.name, 'comparable', element.comparable AND NOT base.veiled,
                                            'simple', base.simple) ORDER BY a.attnum)
          FROM pg_attribute a
         -- under all domains
         CROSS JOIN LATERAL (
             WITH RECURSIVE under(oid, depth) AS (
                 SELECT a.atttypid, 0
                  UNION ALL
                 SELECT t.typbasetype, u.depth + 1 FROM under u JOIN pg_type t ON t.oid = u.oid WHERE t.typtype = 'd'
             )
             SELECT t.oid, CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname END AS name,
                    -- PostgreSQL has no `=` for a domain over an enum, though it has one for an array of them.
                    t.typtype = 'e' AND u.depth > 0 AS veiled,
                    t.typtype = 'e' AND u.depth = 0
                    OR t.oid = ANY ('{boolean,smallint,integer,bigint,numeric,text,varchar,bpchar,uuid,
                                      date,timestamp,timestamptz}'::regtype[]) AS simple
               FROM under u JOIN pg_type t ON t.oid = u.oid ORDER BY u.depth DESC LIMIT 1
         ) AS base
         -- under all arrays and domains
         CROSS JOIN LATERAL (
             WITH RECURSIVE under(oid, depth) AS (
                 SELECT base.oid, 0
                  UNION ALL
                 SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END, u.depth + 1
                   FROM under u JOIN pg_type t ON t.oid = u.oid WHERE t.typtype = 'd' OR t.typcategory = 'A'
             )
             SELECT t.typtype IN ('e', 'r', 'm') OR EXISTS (
                        -- Not those of other methods: `=` of two boxes compares areas.
                        SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
                         WHERE o.opcdefault AND o.opcnamespace = 'pg_catalog'::regnamespace
                           AND o.opcintype IN (SELECT t.oid UNION ALL
                                               SELECT casttarget FROM pg_cast
                                                WHERE castsource = t.oid AND castmethod = 'b' AND castcontext = 'i')
                    ) AS comparable
               FROM under u JOIN pg_type t ON t.oid = u.oid ORDER BY u.depth DESC LIMIT 1
         ) AS element
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_index i
               CROSS JOIN unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
              WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place) AS primary_key,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum) AS generated,
       -- Columns by which any level of partitions is chosen: PostgreSQL notes that they need their table whole.
       ARRAY(SELECT DISTINCT a.attname::text
               FROM pg_partition_tree(c.oid) p
               JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.relid AND d.objsubid > 0
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relid AND d.refobjsubid = 0
                               AND d.deptype = 'i'
               JOIN pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid
              WHERE c.relkind = 'p' AND NOT p.isleaf ORDER BY 1) AS moved_by,
       (WITH RECURSIVE heirs(oid) AS (
            SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid AND c.relkind = 'r'
             UNION
            SELECT i.inhrelid FROM heirs h JOIN pg_inherits i ON i.inhparent = h.oid
        )
        SELECT coalesce(jsonb_agg(jsonb_build_object('oid', h.oid::bigint, 'schema', hn.nspname, 'name', hc.relname)
                                  ORDER BY h.oid), '[]')
          FROM heirs h JOIN pg_class hc ON hc.oid = h.oid JOIN pg_namespace hn ON hn.oid = hc.relnamespace) AS children,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('oid', pc.oid::bigint, 'schema', pn.nspname, 'name', pc.relname)
                                  ORDER BY pc.oid), '[]')
          FROM pg_partition_tree(c.oid) p
          JOIN pg_class pc ON pc.oid = p.relid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
         WHERE c.relkind = 'p' AND NOT p.isleaf AND p.level > 0) AS partitioned
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%(table)s);

-- name: schemas_with_operators
-- The schemas that have operators beside PostgreSQL's own, as a search_path names them; NULL if there are none.
SELECT string_agg(quote_ident(n.nspname), ', ' ORDER BY n.nspname) AS schemas
  FROM pg_namespace n WHERE n.nspname <> 'pg_catalog' AND EXISTS (SELECT FROM pg_operator o WHERE o.oprnamespace = n.oid);

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
-- Triggers that run a function of ours, also the copies that PostgreSQL keeps on partitions.
SELECT t.tgname::text AS name, t.tgrelid::bigint AS oid, n.nspname AS schema, c.relname AS table_name,
       t.tgparentid <> 0 AS copy, t.tgenabled IN ('O', 'A') AS enabled,
       obj_description(t.oid, 'pg_trigger') AS comment, p.proname::text AS function
  FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid
  JOIN pg_namespace pn ON pn.oid = p.pronamespace
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE pn.nspname = 'listener' AND (p.proname LIKE 'capture\_%%' OR p.proname = 'mark_move')
 ORDER BY n.nspname, c.relname, t.tgname;

-- name: may_not_copy
-- Owners of partitioned tables who may not run one of these functions of ours. PostgreSQL copies a table's triggers to each
-- partition that is made or attached, and asks whether whoever does it may run what they run.
SELECT f.name AS function, r.rolname::text AS owner
  FROM unnest(%(functions)s::text[]) WITH ORDINALITY AS f(name, place)
 CROSS JOIN (SELECT DISTINCT relowner FROM pg_class WHERE oid = ANY(%(tables)s::oid[])) AS c
  JOIN pg_roles r ON r.oid = c.relowner
  LEFT JOIN pg_proc p ON p.pronamespace = to_regnamespace('listener') AND p.proname = f.name
 -- One that is not there yet will be owned by whoever asks.
 WHERE NOT coalesce(has_function_privilege(r.oid, p.oid, 'EXECUTE'), pg_has_role(r.oid, current_user, 'USAGE'))
 ORDER BY f.place, owner;

-- name: spoilt
-- What somebody did to our own tables that makes captures fail, hides rows from the daemon or mixes up their order, and
-- how to undo it.
SELECT format('row-level security of listener.%%s', c.relname) AS what,
       format('ALTER TABLE listener.%%I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', c.relname) AS statement
  FROM pg_class c
 WHERE c.relnamespace = to_regnamespace('listener') AND (c.relrowsecurity OR c.relforcerowsecurity)
 UNION ALL
SELECT 'CACHE of the outbox''s sequence', 'ALTER SEQUENCE listener.outbox_id_seq CACHE 1'
  FROM pg_sequence s
 WHERE s.seqrelid = to_regclass('listener.outbox_id_seq') AND s.seqcache <> 1;

-- name: unfinished
SELECT (SELECT count(*) FROM listener.outbox) + (SELECT count(*) FROM listener.muted)
       + (SELECT count(*) FROM listener.message) AS n;

-- name: habits
SELECT current_setting('fsync') AS fsync, current_setting('max_prepared_transactions')::integer AS prepared;

-- name: subscribed
-- Those of the tables that logical replication writes to, all or some of their partitions: it fires no ordinary trigger.
SELECT DISTINCT t.oid::bigint AS oid
  FROM unnest(%(tables)s::oid[]) AS t(oid)
  JOIN pg_subscription_rel r ON r.srrelid = t.oid OR r.srrelid IN (SELECT relid FROM pg_partition_tree(t.oid));
