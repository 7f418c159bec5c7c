-- What `listener db verify` tries as each role, in a transaction that is rolled back: `may` must work, `not` must be
-- refused. The line under a name says it in words. EXPLAIN asks for every right of a statement and runs nothing of it.

-- name: daemon_may_listen
-- hear the doorbell
LISTEN listener

-- name: daemon_may_take
-- take changes from the outbox
EXPLAIN DELETE FROM listener.outbox

-- name: daemon_may_send
-- work on messages
EXPLAIN UPDATE listener.message SET state = state

-- name: daemon_may_promise
-- see until when the doorbell is silent
EXPLAIN SELECT last_value FROM listener.promise

-- name: daemon_may_make_days
-- make the partitions of the days ahead
SELECT listener.make_days()

-- name: daemon_not_insert
-- add rows to a watched table
EXPLAIN INSERT INTO {table} DEFAULT VALUES

-- name: daemon_not_delete
-- remove rows of a watched table
EXPLAIN DELETE FROM {table}

-- name: daemon_not_disable
-- switch off a trigger of a watched table
ALTER TABLE {table} DISABLE TRIGGER USER

-- name: daemon_not_create_public
-- make tables in the schema public
CREATE TABLE public.listener_try ()

-- name: daemon_not_create_ours
-- make tables in the schema listener
CREATE TABLE listener.listener_try ()

-- name: daemon_not_schema
-- make a schema
CREATE SCHEMA listener_try

-- name: daemon_not_role
-- make a role
CREATE ROLE listener_try

-- name: daemon_not_passwords
-- read the passwords of roles
EXPLAIN SELECT rolpassword FROM pg_catalog.pg_authid

-- name: daemon_not_program
-- run a program on the server
COPY (SELECT WHERE false) TO PROGRAM 'true'

-- name: daemon_not_file
-- read a file of the server
SELECT pg_catalog.pg_read_file('PG_VERSION')

-- name: daemon_not_alter
-- alter a table of listener
ALTER TABLE listener.outbox SET (fillfactor = 100)

-- name: daemon_not_function
-- change a function of listener
ALTER FUNCTION listener.make_days() RESET ALL

-- name: daemon_not_migration
-- change what is known of migrations
EXPLAIN UPDATE listener.migration SET name = name

-- name: daemon_not_audit
-- change the audit
EXPLAIN DELETE FROM listener.audit

-- name: reader_may_messages
-- read the view messages
EXPLAIN SELECT * FROM listener.messages

-- name: reader_not_outbox
-- read the outbox
EXPLAIN SELECT * FROM listener.outbox

-- name: reader_not_attempt
-- read requests to CareSoft
EXPLAIN SELECT * FROM listener.attempt

-- name: reader_not_audit
-- read the audit
EXPLAIN SELECT * FROM listener.audit

-- name: reader_not_write
-- change a message
EXPLAIN UPDATE listener.message SET state = state

-- name: reader_not_days
-- make partitions
SELECT listener.make_days()

-- name: erp_not_read
-- read the outbox
EXPLAIN SELECT * FROM listener.outbox

-- name: erp_not_messages
-- read messages in their table
EXPLAIN SELECT * FROM listener.message

-- name: erp_not_forge
-- write to the outbox
EXPLAIN INSERT INTO listener.outbox (watch, op, key) VALUES ('', '', '')

-- name: erp_not_muted
-- remove what was muted
EXPLAIN DELETE FROM listener.muted

-- name: erp_not_count
-- see the count of failed captures
EXPLAIN SELECT last_value FROM listener.capture_failures

-- name: erp_not_promise
-- see until when the doorbell is silent
EXPLAIN SELECT last_value FROM listener.promise

-- name: erp_not_days
-- call a function of listener
SELECT listener.make_days()

-- name: erp_not_capture
-- call a capture function
EXPLAIN SELECT {function}()

-- name: erp_not_alter
-- alter a table of listener
ALTER TABLE listener.outbox SET (fillfactor = 100)

-- name: erp_not_disable
-- switch off a trigger of a watched table
ALTER TABLE {table} DISABLE TRIGGER USER
