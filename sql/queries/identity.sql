-- name: here
-- The database that this connection works on. The timeline is the one being written, not that of the last checkpoint.
SELECT system_identifier::text AS server,
       ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer AS timeline,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,
       current_setting('synchronous_standby_names') <> '' AS synchronous,
       (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS written,
       (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS durable
  FROM pg_control_system();

-- name: known
-- The one that was worked on before; whoever asks decides alone.
SELECT server, timeline, database, synchronous FROM listener.fleet FOR UPDATE;

-- name: know
UPDATE listener.fleet
   SET server = %(server)s, timeline = %(timeline)s, database = %(database)s, synchronous = %(synchronous)s;
