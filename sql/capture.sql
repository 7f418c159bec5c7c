-- The capture trigger, made once per `watch` of rules.yaml by `listener db install`. Words in braces are filled in, quoted
-- by the driver. This is all that ever runs inside an ERP transaction: one INSERT and, if nobody is awake, one NOTIFY.
--
-- `OLD`/`NEW` are written down with the columns that some rule uses, and no others.
--
-- It runs with the rights of whoever installed it, on whatever search_path the ERP's session has: every name in it, also
-- each operator and type, says its schema, and constructs that look up an operator by themselves (NULLIF, IN, BETWEEN, IS
-- DISTINCT FROM) are not used. That is as safe as a pinned path and saves the ERP a tenth of what capture costs. Where
-- a body holds what an admin wrote, or compares columns, its path is pinned.
--
-- Both sides of an operator have the very type it is for, and a number in quotes takes that of the other side: for any
-- other pair (float8 * integer) PostgreSQL reads all operators of that name from its catalog, once in every connection: a
-- quarter more for the ERP to pay for the first capture in each.
--
-- Not seen, because PostgreSQL runs no row trigger for it: TRUNCATE, and whatever a session does under
-- `session_replication_role = replica`. While a trigger's WHEN names a column, PostgreSQL refuses to drop the column
-- (unless with CASCADE, which drops the trigger) and to change its type: that is the ERP's upgrade being told, in time,
-- that somebody uses it. `listener db uninstall`, or DROP TRIGGER, frees it.

-- name: body
-- A table that a `where` looks into may have a column named as a variable is, such as PL/pgSQL's own FOUND.
#variable_conflict use_column
{declare}
BEGIN{moved}{guard}
    -- SET LOCAL listener.mute = 'reason' keeps a transaction's changes out of the normal flow.
    IF pg_catalog.current_setting('listener.mute', true) OPERATOR(pg_catalog.<>) '' THEN
        INSERT INTO listener.muted (watch, op, key, old, new, reason)
        VALUES ({watch}, {op}, {key}, {old}, {new}, pg_catalog.current_setting('listener.mute'));
        RETURN NULL;
    END IF;
    INSERT INTO listener.outbox (watch, op, key, old, new)
    VALUES ({watch}, {op}, {key}, {old}, {new});{ring}
    RETURN NULL;{swallow}
END

-- name: guard

    IF ({where}) IS NOT TRUE THEN
        RETURN NULL;
    END IF;

-- name: late
pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) '1000'
        OPERATOR(pg_catalog.-) pg_catalog.pg_sequence_last_value('listener.promise')::pg_catalog.float8

-- name: ring

    -- Milliseconds since the matcher's promise to look again ended. From -5001 to -1 it holds: one that ends later than that
    -- is a clock that was set back. Where nobody gave a sign of life for 10 s nobody is there to be rung. The outbox row
    -- came first, so that this transaction is already one of those the matcher waits for before it sleeps. Two conditions,
    -- for PL/pgSQL prepares all of one for every transaction, also what is not reached.
    IF pg_catalog.abs({late} OPERATOR(pg_catalog.+) '2501') OPERATOR(pg_catalog.>) '2500' THEN
        -- A full queue would fail the ERP's COMMIT.
        IF {late} OPERATOR(pg_catalog.<) '10000' AND pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.<) '0.5' THEN
            PERFORM pg_catalog.pg_notify('listener', '');
        END IF;
    END IF;

-- name: swallow

EXCEPTION WHEN OTHERS THEN{forget_moved}
    -- The ERP's write matters more than our copy of it. The count survives a roll-back; SQLSTATE names no data.
    PERFORM pg_catalog.nextval('listener.capture_failures');
    RAISE LOG 'listener could not capture a change (%)', SQLSTATE;
    IF SQLSTATE OPERATOR(pg_catalog.=) ANY ('{{42703,42804,42846,42883,42P01}}'::pg_catalog.text[]) THEN
        -- A column was renamed or dropped, or has a type that is written down another way, or `where` looks into a table that
        -- is not there any more: keep the whole rows, to be released when the rules have been mended. What is muted anyway
        -- keeps its own reason.
        BEGIN
            INSERT INTO listener.muted (watch, op, key, old, new, reason)
            VALUES ({watch}, pg_catalog.lower(TG_OP), {lost_key}, pg_catalog.to_jsonb(OLD), pg_catalog.to_jsonb(NEW),
                    CASE WHEN pg_catalog.current_setting('listener.mute', true) OPERATOR(pg_catalog.<>) ''
                         THEN pg_catalog.current_setting('listener.mute')
                         WHEN SQLSTATE OPERATOR(pg_catalog.=) '42703' THEN 'a column that rules use is gone'
                         WHEN SQLSTATE OPERATOR(pg_catalog.=) '42P01' THEN '`where` looks into a table that is not there'
                         ELSE 'a column that rules use has another type' END);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    ELSIF SQLSTATE OPERATOR(pg_catalog.=) '55P03' THEN
        -- Somebody has the outbox locked. One wait is enough for a transaction, however many rows it writes: from here on they
        -- are kept apart, to be released.
        BEGIN
            PERFORM pg_catalog.set_config('listener.mute', 'the outbox was locked', true);
            INSERT INTO listener.muted (watch, op, key, old, new, reason)
            VALUES ({watch}, {op}, {key}, {old}, {new}, 'the outbox was locked');
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    RETURN NULL;

-- name: declare_moved
DECLARE
    op text := lower(TG_OP);
    -- The setting that holds the row which a move took out of its old partition, between the DELETE and the INSERT that the
    -- move consists of. By depth, for triggers of the ERP that run between these two may move rows themselves.
    left_in text;
    left_behind text;
    leaves text;

-- name: moved

    -- An update that moves a row to another partition runs the DELETE triggers of the one and then the INSERT triggers of
    -- the other, and no UPDATE trigger. listener.mark_move() saw it begin: `out` and `in` are the triggers of the two
    -- halves, and run next to each other. A row that another has followed out, or the statement's end (`vanished`), before
    -- it came in was kept from coming by a trigger of the ERP: it is deleted.
    IF TG_ARGV[0] IS NOT NULL THEN
        left_in := concat('listener.left_', pg_trigger_depth(), '_', {watch});
        left_behind := nullif(current_setting(left_in, true), '');
        IF TG_ARGV[0] = 'out' THEN
            leaves := to_jsonb(OLD)::text;
        END IF;
        PERFORM set_config(left_in, coalesce(leaves, ''), true);
        IF left_behind = 'failed' OR left_behind IS NULL AND TG_ARGV[0] <> 'in' THEN
            RETURN NULL;
        ELSIF left_behind IS NOT NULL THEN
            -- By its number, for the ERP may have given the table another name.
            EXECUTE format('SELECT * FROM jsonb_populate_record(NULL::%s, $1)', TG_RELID::regclass)
               INTO OLD USING left_behind::jsonb;
            IF TG_ARGV[0] = 'in' THEN
                op := 'update';
            ELSE
                NEW := OLD;
                op := 'delete';
            END IF;
        END IF;
        IF (CASE op WHEN 'insert' THEN {inserted} WHEN 'update' THEN {changed} ELSE {deleted} END) IS NOT TRUE THEN
            RETURN NULL;
        END IF;
    END IF;

-- name: forget_moved

    IF left_in IS NOT NULL THEN
        -- It was set back with all that this function did.
        PERFORM pg_catalog.set_config(left_in, CASE WHEN TG_ARGV[0] OPERATOR(pg_catalog.=) 'out' THEN coalesce(leaves, 'failed')
                                                    ELSE '' END, true);
    END IF;

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER {config}
AS {body};
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when_fired} ON {table}
FOR EACH {level} {condition} EXECUTE FUNCTION {call};
COMMENT ON TRIGGER {trigger} ON {table} IS {comment};

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table};

-- name: drop_function
DROP FUNCTION IF EXISTS {function}();

-- name: enable_trigger
ALTER TABLE {table} ENABLE TRIGGER {trigger};
