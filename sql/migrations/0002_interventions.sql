-- What people decide: pauses, who did what, who wants no SMS; and counts that need no scan of what is finished.

-- Nothing is sent to a phone, by a rule, through an account, or at all, while its row stands here.
CREATE TABLE listener.pause (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target text NOT NULL CHECK (target IN ('all', 'account', 'rule', 'phone')),
    value  text NOT NULL,
    reason text NOT NULL,
    -- NULL: until somebody resumes
    until  timestamptz,
    since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text NOT NULL,
    UNIQUE (target, value),
    CHECK ((target = 'all') = (value = ''))
);

-- Everything that a person did by hand. No whole phone number, no text.
CREATE TABLE listener.audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text NOT NULL,
    verb   text NOT NULL,
    what   jsonb NOT NULL,
    count  integer NOT NULL,
    reason text
);
-- What a person took note of last.
CREATE INDEX audit_seen ON listener.audit (id) WHERE verb = 'seen';

-- Phones that want no SMS; kept even when everything else about them is forgotten, or the next change would bring them back.
CREATE TABLE listener.suppression (
    phone  text PRIMARY KEY,
    reason text NOT NULL,
    since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text NOT NULL
);

-- A person's pause of an account or of everything stands on the account's row, because that is what `claim` locks:
-- whoever pauses waits for the permits being taken, and none is taken afterwards.
ALTER TABLE listener.account ADD stopped_until timestamptz, ADD stopped_reason text,
    ADD CHECK ((stopped_until IS NULL) = (stopped_reason IS NULL));

-- The person's pause that stops an account for longest, if any; one without an end lasts until the year 9999.
CREATE FUNCTION listener.account_stop(account text)
RETURNS TABLE (until timestamptz, reason text)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT coalesce(p.until, '9999-12-31 00:00+00'), p.reason FROM listener.pause p
     WHERE (p.target = 'all' OR p.target = 'account' AND p.value = account)
       AND (p.until IS NULL OR p.until > clock_timestamp())
     ORDER BY 1 DESC LIMIT 1
$$;

-- Which pause holds a message, so that its end releases exactly that one; when to look for an unclear one on its ticket.
ALTER TABLE listener.message ADD held_by bigint, ADD looks integer NOT NULL DEFAULT 0, ADD look_at timestamptz,
    ADD CONSTRAINT message_held_by CHECK (held_by IS NULL OR state = 'held');
CREATE INDEX message_held_by ON listener.message (held_by) WHERE held_by IS NOT NULL;
CREATE INDEX message_unclear ON listener.message (look_at NULLS FIRST) WHERE state = 'unknown' AND ticket_sent IS NOT NULL;
CREATE INDEX finished_ticket ON listener.finished (coalesce(ticket_id, ticket_sent, ticket_own));
-- Lists for people are newest first, by page, of all messages or those of a rule, a state or a key.
CREATE INDEX finished_made ON listener.finished (created_at, id);
CREATE INDEX finished_rule ON listener.finished (rule, created_at, id);
CREATE INDEX finished_state ON listener.finished (state, created_at, id);
CREATE INDEX finished_key ON listener.finished (key);
CREATE INDEX message_made ON listener.message (created_at, id);

-- A message of a paused rule or phone never waits, whoever wants to make it wait: so taking permits need not ask.
-- It asks first whether there is any pause at all (and sets no search_path, which costs more than the rest): mostly not.
CREATE FUNCTION listener.hold_if_paused() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    stop listener.pause;
BEGIN
    NEW.held_by := NULL;
    IF NOT EXISTS (SELECT FROM listener.pause) THEN
        RETURN NEW;
    END IF;
    SELECT * INTO stop FROM listener.pause
     WHERE (target = 'rule' AND value = NEW.rule OR target = 'phone' AND value = NEW.phone)
       AND (until IS NULL OR until > clock_timestamp())
     ORDER BY target DESC LIMIT 1;
    IF FOUND THEN
        NEW.state := 'held';
        NEW.held_by := stop.id;
        NEW.reason := format('the %s is paused: %s', stop.target, stop.reason);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold_if_paused_new BEFORE INSERT ON listener.message
    FOR EACH ROW WHEN (NEW.state = 'waiting') EXECUTE FUNCTION listener.hold_if_paused();
CREATE TRIGGER hold_if_paused BEFORE UPDATE OF state ON listener.message
    FOR EACH ROW WHEN (NEW.state = 'waiting' AND OLD.state <> 'waiting') EXECUTE FUNCTION listener.hold_if_paused();

-- How many messages ended how, by hour: rows are only added, so that nobody waits for another's count, and summed up
-- to one an hour by upkeep. Partitions that are dropped leave their counts here.
CREATE TABLE listener.tally (
    hour  timestamptz NOT NULL,
    rule  text NOT NULL,
    state text NOT NULL,
    n     bigint NOT NULL,
    parts bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX tally_hour ON listener.tally (hour);

CREATE FUNCTION listener.count_finished() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO listener.tally
        SELECT date_trunc('hour', settled_at, 'UTC'), rule, state, -count(*), -coalesce(sum(parts), 0) FROM gone GROUP BY 1, 2, 3;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO listener.tally
        SELECT date_trunc('hour', settled_at, 'UTC'), rule, state, count(*), coalesce(sum(parts), 0) FROM came GROUP BY 1, 2, 3;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_finished_new AFTER INSERT ON listener.finished
    REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION listener.count_finished();
CREATE TRIGGER count_finished_gone AFTER DELETE ON listener.finished
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION listener.count_finished();
CREATE TRIGGER count_finished AFTER UPDATE ON listener.finished
    REFERENCING OLD TABLE AS gone NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION listener.count_finished();

-- Whether a value, or one of the values of an object, holds these digits, however they are written.
CREATE FUNCTION listener.mentions(value jsonb, digits text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE jsonb_typeof(value)
           WHEN 'object' THEN EXISTS (SELECT FROM jsonb_each_text(value) AS v
                                       WHERE regexp_replace(v.value, '\D', '', 'g') LIKE '%' || digits || '%')
           WHEN 'null' THEN false
           ELSE coalesce(regexp_replace(value #>> '{}', '\D', '', 'g') LIKE '%' || digits || '%', false) END
$$;
