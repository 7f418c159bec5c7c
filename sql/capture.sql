-- The capture trigger, made once per `watch` of rules.yaml by `listener db install`. Words in braces are filled in, quoted
-- by the driver. This is all that ever runs inside an ERP transaction: one INSERT and, if nobody is awake, one NOTIFY.
--
-- `OLD`/`NEW` are written down with the columns that some rule uses, and no others.
--
-- Not seen, because PostgreSQL runs no row trigger for it: TRUNCATE, and whatever a session does under
-- `session_replication_role = replica`. While a trigger's WHEN names a column, PostgreSQL refuses to drop the column
-- (unless with CASCADE, which drops the trigger) and to change its type: that is the ERP's upgrade being told, in time,
-- that somebody uses it. `listener db uninstall`, or DROP TRIGGER, frees it.

-- name: body
DECLARE
    -- SET LOCAL listener.mute = 'reason' keeps a transaction's changes out of the normal flow.
    mute constant text := nullif(current_setting('listener.mute', true), '');
    late bigint;{declare}
BEGIN{moved}{guard}
    IF mute IS NOT NULL THEN
        INSERT INTO listener.muted (watch, op, key, old, new, reason)
        VALUES ({watch}, {op}, {key}, {old}, {new}, mute);
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

-- name: ring

    -- How long ago the matcher's promise to look again ended. The outbox row came first, so that this transaction is
    -- already one of those the matcher waits for before it sleeps. More than 5 s ahead is a clock that was set back;
    -- more than 10 s ago means that nobody is there to be rung. A full queue would fail the ERP's COMMIT.
    late := (date_part('epoch', clock_timestamp()) * 1000)::bigint - pg_sequence_last_value('listener.promise');
    IF (late BETWEEN 0 AND 10000 OR late < -5000) AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('listener', '');
    END IF;

-- name: swallow

EXCEPTION WHEN OTHERS THEN
    -- The ERP's write matters more than our copy of it. The count survives a roll-back; SQLSTATE names no data.
    PERFORM nextval('listener.capture_failures');
    RAISE LOG 'listener could not capture a change (%)', SQLSTATE;
    IF SQLSTATE = '42703' THEN
        -- A column was renamed or dropped: keep the whole rows, to be released when the rules have been mended.
        BEGIN
            INSERT INTO listener.muted (watch, op, key, old, new, reason)
            VALUES ({watch}, lower(TG_OP), {lost_key}, to_jsonb(OLD), to_jsonb(NEW), 'a column that rules use is gone');
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    RETURN NULL;

-- name: declare_moved

    op text := lower(TG_OP);
    -- The row that a move took out of its old partition, between the DELETE and the INSERT that the move consists of.
    left_behind constant text := nullif(current_setting({left}, true), '');

-- name: moved

    -- An update that moves a row to another partition runs the DELETE triggers of the one and then the INSERT triggers of
    -- the other, and no UPDATE trigger. listener.mark_move() saw it begin, so that these two know each other.
    IF TG_ARGV[0] = 'out' THEN
        PERFORM set_config({left}, to_jsonb(OLD)::text, true);
        RETURN NULL;
    ELSIF TG_ARGV[0] = 'in' THEN
        IF left_behind IS NULL THEN
            RETURN NULL;
        END IF;
        PERFORM set_config({left}, '', true);
        OLD := jsonb_populate_record(NULL::{table}, left_behind::jsonb);
        op := 'update';
        IF ({changed}) IS NOT TRUE THEN
            RETURN NULL;
        END IF;
    ELSIF op = 'insert' AND left_behind IS NOT NULL THEN
        RETURN NULL;
    END IF;

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS {body};
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} {when_fired} ON {table}
FOR EACH ROW {condition} EXECUTE FUNCTION {call};
COMMENT ON TRIGGER {trigger} ON {table} IS {comment};

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table};

-- name: drop_function
DROP FUNCTION IF EXISTS {function}();

-- name: enable_trigger
ALTER TABLE {table} ENABLE TRIGGER {trigger};
