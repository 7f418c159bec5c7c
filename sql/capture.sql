-- The capture trigger, made once per `watch` of rules.yaml by `listener db install`. Words in braces are filled in, quoted
-- by the driver. This is all that ever runs inside an ERP transaction: one INSERT and, if nobody is awake, one NOTIFY.
--
-- `OLD`/`NEW` are written down with the columns that some rule uses, and no others.

-- name: body
DECLARE
    -- SET LOCAL listener.mute = 'reason' keeps a transaction's changes out of the normal flow.
    mute constant text := nullif(current_setting('listener.mute', true), '');
    late bigint;
BEGIN{guard}
    IF mute IS NOT NULL THEN
        INSERT INTO listener.muted (watch, op, key, old, new, reason)
        VALUES ({watch}, lower(TG_OP), {key}, {old}, {new}, mute);
        RETURN NULL;
    END IF;
    INSERT INTO listener.outbox (watch, op, key, old, new)
    VALUES ({watch}, lower(TG_OP), {key}, {old}, {new});{ring}
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
    late := (extract(epoch FROM clock_timestamp()) * 1000)::bigint - (SELECT last_value FROM listener.promise);
    IF (late BETWEEN 0 AND 10000 OR late < -5000) AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('listener', '');
    END IF;

-- name: swallow

EXCEPTION WHEN OTHERS THEN
    -- The ERP's write matters more than our copy of it. The count survives a roll-back; SQLSTATE names no data.
    PERFORM nextval('listener.capture_failures');
    RAISE LOG 'listener could not capture a change (%)', SQLSTATE;
    RETURN NULL;

-- name: function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS {body};
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;

-- name: trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table}
FOR EACH ROW {when} EXECUTE FUNCTION {function}();
COMMENT ON TRIGGER {trigger} ON {table} IS {comment};

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table};

-- name: drop_function
DROP FUNCTION IF EXISTS {function}();
