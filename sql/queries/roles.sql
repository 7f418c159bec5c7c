-- Who may do what with what is ours.

-- name: known
-- Roles that were given the daemon's part (something on the outbox) or a reader's (something on the views alone).
SELECT r.rolname::text AS name, bool_or(c.relname = 'outbox') AS daemon
  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS g JOIN pg_roles r ON r.oid = g.grantee
 WHERE c.relnamespace = to_regnamespace('listener') AND c.relname IN ('outbox', 'messages') AND g.grantee <> c.relowner
 GROUP BY 1 ORDER BY 1;

-- name: role
-- A role by its name; no row if there is none. `owns`: what is ours is its own anyway.
SELECT r.rolsuper AS super, r.rolcanlogin AS login,
       coalesce(pg_has_role(r.oid, n.nspowner, 'USAGE'), r.rolname = current_user) AS owns
  FROM pg_roles r LEFT JOIN pg_namespace n ON n.nspname = 'listener'
 WHERE r.rolname = %(role)s;

-- name: owner
-- Who owns what is ours: capture runs with its rights.
SELECT r.rolname::text AS name, r.rolsuper AS super FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
 WHERE n.nspname = 'listener';

-- name: unlike
-- What `daemons` and `readers` lack of the rights that they need, and what anybody has beyond: the statements between.
-- Every right of a daemon is one that some statement of ours needs. Partitions are reached through their parents. Whoever
-- may only read the two views is left alone; so is what nobody can reach, for want of USAGE, and what the owner of a
-- partitioned table needs to add partitions (`may_not_copy`).
WITH wanted(kind, part, object, rights) AS (VALUES
    ('SCHEMA', 'daemon', 'listener', '{USAGE}'::text[]),
    ('TABLE', 'daemon', 'account', '{SELECT,INSERT,UPDATE}'),
    ('TABLE', 'daemon', 'attempt', '{SELECT,INSERT,UPDATE}'),
    ('TABLE', 'daemon', 'audit', '{SELECT,INSERT}'),
    ('TABLE', 'daemon', 'brake', '{SELECT,INSERT,DELETE}'),
    ('TABLE', 'daemon', 'calendar', '{SELECT,INSERT,UPDATE}'),
    ('TABLE', 'daemon', 'change', '{SELECT,INSERT,UPDATE}'),
    ('TABLE', 'daemon', 'finished', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'fleet', '{SELECT,UPDATE}'),
    ('TABLE', 'daemon', 'message', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'messages', '{SELECT}'),
    ('TABLE', 'daemon', 'migration', '{SELECT}'),
    ('TABLE', 'daemon', 'muted', '{SELECT,DELETE}'),
    ('TABLE', 'daemon', 'outbox', '{SELECT,INSERT,DELETE}'),
    ('TABLE', 'daemon', 'pause', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'replica', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'rule_minute', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'rules', '{SELECT,INSERT,UPDATE}'),
    ('TABLE', 'daemon', 'suppression', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'tally', '{SELECT,INSERT,DELETE}'),
    ('TABLE', 'daemon', 'thread', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('TABLE', 'daemon', 'ticket_save', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('SEQUENCE', 'daemon', 'capture_failures', '{SELECT}'),
    ('SEQUENCE', 'daemon', 'message_id', '{USAGE,SELECT}'),
    ('SEQUENCE', 'daemon', 'promise', '{SELECT,UPDATE}'),
    ('FUNCTION', 'daemon', 'account_stop(text)', '{EXECUTE}'),
    ('FUNCTION', 'daemon', 'drop_day(interval)', '{EXECUTE}'),
    ('FUNCTION', 'daemon', 'head(bigint)', '{EXECUTE}'),
    ('FUNCTION', 'daemon', 'make_days()', '{EXECUTE}'),
    ('FUNCTION', 'daemon', 'mentions(jsonb,text)', '{EXECUTE}'),
    ('FUNCTION', 'daemon', 'names_phone(text)', '{EXECUTE}'),
    ('SCHEMA', 'reader', 'listener', '{USAGE}'),
    ('TABLE', 'reader', 'messages', '{SELECT}'),
    ('TABLE', 'reader', 'tickets', '{SELECT}')
), ours(kind, oid, object, view, owner, acl) AS (
    SELECT 'SCHEMA', n.oid, n.nspname::text, false, n.nspowner, n.nspacl
      FROM pg_namespace n WHERE n.nspname = 'listener'
     UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid, c.relname::text,
           c.relname IN ('messages', 'tickets'), c.relowner, c.relacl
      FROM pg_class c WHERE c.relnamespace = to_regnamespace('listener') AND c.relkind IN ('r', 'p', 'v', 'S')
     UNION ALL
    SELECT 'FUNCTION', p.oid, format('%%s(%%s)', p.proname, array_to_string(p.proargtypes::regtype[], ',')), false,
           p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
      FROM pg_proc p WHERE p.pronamespace = to_regnamespace('listener')
), roles(part, name, oid) AS (
    SELECT p.part, n.name, r.oid
      FROM (VALUES ('daemon', %(daemons)s::text[]), ('reader', %(readers)s::text[])) AS p(part, names)
     CROSS JOIN LATERAL unnest(p.names) AS n(name) LEFT JOIN pg_roles r ON r.rolname = n.name
), lacking AS (
    SELECT w.kind, w.object, r.name, x.privilege, x.place
      FROM wanted w JOIN roles r USING (part) CROSS JOIN LATERAL unnest(w.rights) WITH ORDINALITY AS x(privilege, place)
      LEFT JOIN ours o ON o.kind = w.kind AND o.object = w.object
     WHERE (CASE w.kind WHEN 'SCHEMA' THEN has_schema_privilege(r.oid, o.oid, x.privilege)
                        WHEN 'TABLE' THEN has_table_privilege(r.oid, o.oid, x.privilege)
                        WHEN 'SEQUENCE' THEN has_sequence_privilege(r.oid, o.oid, x.privilege)
                        ELSE has_function_privilege(r.oid, o.oid, x.privilege) END) IS NOT TRUE
), beyond AS (
    SELECT o.kind, o.object, coalesce(r.rolname, 'PUBLIC') AS name, r.oid IS NULL AS public, g.privilege_type AS privilege
      FROM ours o CROSS JOIN LATERAL aclexplode(o.acl) AS g LEFT JOIN pg_roles r ON r.oid = g.grantee
     WHERE g.grantee <> o.owner AND (r.oid IS NOT NULL OR g.grantee = 0)
       AND has_schema_privilege(coalesce(r.rolname, 'public'), 'listener', 'USAGE')
       AND NOT (o.kind = 'SCHEMA' AND g.privilege_type = 'USAGE' OR o.view AND g.privilege_type = 'SELECT')
       AND NOT (o.kind = 'FUNCTION' AND EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                                                 WHERE t.tgfoid = o.oid AND c.relkind = 'p' AND c.relowner = g.grantee))
       AND NOT EXISTS (SELECT FROM wanted w JOIN roles x USING (part)
                        WHERE x.oid = g.grantee AND w.kind = o.kind AND w.object = o.object AND g.privilege_type = ANY(w.rights))
)
SELECT 'grant' AS step, format('%%s on %%s to %%s', string_agg(privilege, ', ' ORDER BY place), object, name) AS what,
       format('GRANT %%s ON %%s %%s TO %%I', string_agg(privilege, ', ' ORDER BY place), kind,
              CASE kind WHEN 'SCHEMA' THEN object WHEN 'FUNCTION' THEN 'listener.' || object
                        ELSE format('listener.%%I', object) END, name) AS statement
  FROM lacking GROUP BY kind, object, name
UNION ALL
SELECT 'revoke', format('%%s on %%s from %%s', string_agg(privilege, ', ' ORDER BY privilege), object, name),
       format('REVOKE %%s ON %%s %%s FROM %%s', string_agg(privilege, ', ' ORDER BY privilege), kind,
              CASE kind WHEN 'SCHEMA' THEN object WHEN 'FUNCTION' THEN 'listener.' || object
                        ELSE format('listener.%%I', object) END, CASE WHEN public THEN 'PUBLIC' ELSE quote_ident(name) END)
  FROM beyond GROUP BY kind, object, name, public
 ORDER BY 1, 3;

-- name: uses
-- What the temporary view or rule `listener_uses` reads and calls, column by column; a table as a whole where no column
-- is named. PostgreSQL notes it for itself, so that nothing of it can be dropped.
SELECT CASE WHEN d.refclassid = 'pg_class'::regclass THEN 'TABLE' ELSE 'FUNCTION' END AS kind,
       d.refobjid::bigint AS oid, coalesce(a.attname::text, '') AS col
  FROM pg_rewrite w
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.deptype = 'n'
                  AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass) AND d.refobjid <> w.ev_class
  LEFT JOIN pg_attribute a ON d.refclassid = 'pg_class'::regclass AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                          AND d.refobjsubid <> 0
 WHERE w.ev_class = to_regclass('pg_temp.listener_uses') AND w.rulename IN ('_RETURN', 'listener_uses')
 ORDER BY 1, 2, 3;

-- name: written
-- The rule as PostgreSQL writes it: a column that is read has its table in front, one that is set has not.
SELECT pg_get_ruledef(w.oid) AS rule FROM pg_rewrite w
 WHERE w.ev_class = to_regclass('pg_temp.listener_uses') AND w.rulename = 'listener_uses';

-- name: objects
-- Things of the ERP by their names as SQL writes them, with the schemas that hold them; `mine` if whoever asks may grant
-- rights to them.
WITH needed(kind, oid, col, privilege) AS (
    SELECT * FROM unnest(%(kinds)s::text[], %(oids)s::oid[], %(cols)s::text[], %(privileges)s::text[])
), held AS (
    SELECT n.*, coalesce(c.relnamespace, p.pronamespace) AS schema, coalesce(c.relowner, p.proowner) AS owner,
           coalesce(quote_ident(c.relname), format('%%I(%%s)', p.proname, array_to_string(p.proargtypes::regtype[], ','))) AS object
      FROM needed n LEFT JOIN pg_class c ON n.kind = 'TABLE' AND c.oid = n.oid
                    LEFT JOIN pg_proc p ON n.kind = 'FUNCTION' AND p.oid = n.oid
)
SELECT h.kind, h.oid::bigint AS oid, format('%%I.%%s', s.nspname, h.object) AS object, h.col, h.privilege,
       pg_has_role(h.owner, 'USAGE') AS mine
  FROM held h JOIN pg_namespace s ON s.oid = h.schema
 UNION
SELECT 'SCHEMA', s.oid::bigint, quote_ident(s.nspname), '', 'USAGE', pg_has_role(s.nspowner, 'USAGE')
  FROM held h JOIN pg_namespace s ON s.oid = h.schema
 ORDER BY 3, 5, 4;

-- name: granted
-- Whether a role, should it be there, has each of these rights.
SELECT (CASE n.kind WHEN 'SCHEMA' THEN has_schema_privilege(r.oid, n.oid, n.privilege)
                    WHEN 'FUNCTION' THEN has_function_privilege(r.oid, n.oid, n.privilege)
                    ELSE CASE n.col WHEN '' THEN has_table_privilege(r.oid, n.oid, n.privilege)
                                    ELSE has_column_privilege(r.oid, n.oid, n.col, n.privilege) END END) IS TRUE AS granted
  FROM unnest(%(kinds)s::text[], %(oids)s::oid[], %(cols)s::text[], %(privileges)s::text[]) WITH ORDINALITY
       AS n(kind, oid, col, privilege, place)
  LEFT JOIN pg_roles r ON r.rolname = %(role)s
 ORDER BY n.place;

-- name: may_take_back
-- Whether it is written down here what was granted, for whoever may know.
SELECT coalesce(has_table_privilege(to_regclass('listener.given'), 'SELECT'), false) AS may;

-- name: given
-- What `db install` granted of the ERP's, and whether it is still there to be taken back.
SELECT g.role, g.kind, g.object, g.col, g.privilege,
       r.oid IS NOT NULL
       AND CASE g.kind WHEN 'SCHEMA' THEN to_regnamespace(g.object) IS NOT NULL
                       WHEN 'FUNCTION' THEN to_regprocedure(g.object) IS NOT NULL
                       ELSE to_regclass(g.object) IS NOT NULL
                            AND (g.col = '' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(g.object)
                                                          AND a.attname = g.col AND NOT a.attisdropped)) END AS there
  FROM listener.given g LEFT JOIN pg_roles r ON r.rolname = g.role
 ORDER BY 1, 3, 5, 4;

-- name: left_to
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS what
  FROM pg_shdepend d JOIN pg_roles r ON d.refclassid = 'pg_authid'::regclass AND r.oid = d.refobjid
 WHERE r.rolname = %(role)s AND d.deptype = 'a' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY 1;

-- name: writers
-- Roles of the ERP: those that can connect and write to one of these tables, and own neither them nor what is ours.
SELECT DISTINCT r.rolname::text AS name
  FROM pg_roles r JOIN pg_class c ON c.oid = ANY(%(tables)s::oid[])
  JOIN pg_namespace n ON n.nspname = 'listener'
 WHERE r.rolcanlogin AND NOT r.rolsuper AND NOT pg_has_role(r.oid, n.nspowner, 'USAGE') AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
   AND r.rolname <> ALL(%(others)s::text[])
   AND (has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE') OR has_table_privilege(r.oid, c.oid, 'DELETE'))
 ORDER BY 1;

-- name: readable
-- What of the ERP's tables a role can read or write, by any way.
SELECT format('%%I.%%I', n.nspname, c.relname) AS name, c.oid::bigint AS oid,
       has_table_privilege(%(role)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'listener', 'pg_toast') AND n.nspname NOT LIKE 'pg\_temp%%'
   AND has_schema_privilege(%(role)s, n.oid, 'USAGE')
   AND (has_any_column_privilege(%(role)s, c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege(%(role)s, c.oid, 'DELETE, TRUNCATE'))
 ORDER BY 1;

-- name: shown
-- Whether policies let a role see and change every row of these tables: of each one says so, and none takes rows away
-- again. NULL if row-level security of none of them concerns the role.
SELECT bool_and(coalesce(p.whole, false)) AS whole
  FROM unnest(%(oids)s::oid[], %(privileges)s::text[]) AS n(oid, privilege)
  JOIN pg_class c ON c.oid = n.oid AND c.relrowsecurity
  JOIN pg_roles r ON r.rolname = %(role)s AND NOT r.rolsuper AND NOT r.rolbypassrls
                 AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
  LEFT JOIN LATERAL (
      SELECT bool_or(polpermissive AND pg_get_expr(polqual, polrelid) = 'true') AND bool_and(polpermissive) AS whole
        FROM pg_policy
       WHERE polrelid = c.oid
         AND polcmd IN ('*', CASE n.privilege WHEN 'SELECT' THEN 'r' WHEN 'UPDATE' THEN 'w' WHEN 'DELETE' THEN 'd' END)
         AND EXISTS (SELECT FROM unnest(polroles) AS x(oid) WHERE x.oid = 0 OR pg_has_role(r.oid, x.oid, 'USAGE'))
  ) AS p ON true
 WHERE n.privilege <> 'INSERT';
