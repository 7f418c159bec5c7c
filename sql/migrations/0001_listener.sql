-- Everything listener keeps, in a schema of its own. The way of the data:
--   outbox (written by triggers) -> change (matched) -> message (unfinished) -> finished
-- Small and hot: outbox, thread, message. Kept and dropped by day, never deleted row by row: change, attempt, finished.

-- A change of a watched row, written by the capture trigger in the ERP's own transaction. No foreign key, no second
-- index, no partition: whatever could fail or wait here would fail or wait in the ERP.
-- CACHE 1 keeps ids in the order of non-overlapping transactions.
CREATE TABLE listener.outbox (
    id    bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    watch text NOT NULL,
    op    text NOT NULL,
    key   text NOT NULL,
    old   jsonb,
    new   jsonb,
    at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
        autovacuum_vacuum_cost_delay = 0);

-- Changes made under `SET LOCAL listener.mute = 'reason'`: kept apart, so that an import never slows the matcher.
CREATE TABLE listener.muted (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    watch  text NOT NULL,
    op     text NOT NULL,
    key    text NOT NULL,
    old    jsonb,
    new    jsonb,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);

-- Notes that an update may be about to move a row to another partition, for the capture triggers that run next. Runs with
-- the ERP's own rights, so every name in it is qualified; it can neither fail nor change the row.
CREATE FUNCTION listener.mark_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('listener.moving', pg_catalog.concat(OLD.tableoid, OLD.ctid), true);
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION listener.mark_move() FROM PUBLIC;

-- Captures that failed inside the trigger. A sequence, because a count must survive the roll-back and a full disk.
CREATE SEQUENCE listener.capture_failures;

-- Until when (epoch milliseconds, this server's clock) a matcher promises to look at the outbox again without being
-- rung. A sequence, because every isolation level sees its newest value.
CREATE SEQUENCE listener.promise;

-- The rules that were ever in force, whole; a message keeps the number of the version that made it.
CREATE TABLE listener.rules (
    version   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256    text NOT NULL UNIQUE,
    source    text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: what the fleet knows of its rules file and of the matcher.
CREATE TABLE listener.fleet (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    rules_version integer REFERENCES listener.rules,
    loaded_at     timestamptz,
    faults        jsonb NOT NULL DEFAULT '[]',
    -- when a replica last did not hear its own ring
    deaf_at       timestamptz,
    -- the database that was last worked on: server, timeline, database; and whether its standby never lags
    server        text,
    timeline      integer,
    database      bigint,
    synchronous   boolean
);
INSERT INTO listener.fleet DEFAULT VALUES;

-- A CareSoft account as all replicas see it: the next free slot (GCRA) and why nothing may be sent, if so.
CREATE TABLE listener.account (
    name             text PRIMARY KEY,
    next_slot        timestamptz NOT NULL DEFAULT '-infinity',
    -- when it was last stopped: what began before then says nothing new
    paused_at        timestamptz,
    paused_until     timestamptz,
    pause_kind       text CHECK (pause_kind IN ('rate', 'lockout', 'token', 'config', 'unreachable', 'unsure')),
    pause_reason     text,
    -- refusals in a row; above 0 only one request at a time, under this lease, probes the account
    streak           integer NOT NULL DEFAULT 0 CHECK (streak >= 0),
    unsure_streak    integer NOT NULL DEFAULT 0 CHECK (unsure_streak >= 0),
    probe            bigint CHECK (probe IS NULL OR streak > 0),
    token_print      text,
    CHECK ((paused_until IS NULL) = (pause_kind IS NULL)),
    CHECK (paused_until IS NULL OR paused_at IS NOT NULL),
    CHECK ((paused_until IS NULL) = (streak = 0))
) WITH (fillfactor = 50);

-- The messages of one order or customer, sent one at a time. What a worker takes is a thread with something due, so a
-- stuck thread costs one row.
CREATE TABLE listener.thread (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account     text NOT NULL,
    name        text NOT NULL,
    ticket_id   bigint,
    -- the ERP's own ticket that the gateway refused: no message asks for it again
    refused_ticket bigint,
    -- urgent, normal, bulk: permits are taken for each of these, and for no other
    priority    smallint NOT NULL DEFAULT 1 CHECK (priority IN (0, 1, 2)),
    -- when its first waiting message is due; NULL while nothing waits or while it is leased
    next_at     timestamptz,
    lease       bigint,
    -- the answer about an earlier message may still bring this thread's ticket: followers wait until then
    ticket_wait_until timestamptz,
    -- when something was last sent in it
    used_on     date NOT NULL DEFAULT current_date,
    UNIQUE (account, name),
    CHECK (lease IS NULL OR next_at IS NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX thread_due ON listener.thread (account, priority, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX thread_leased ON listener.thread (lease) WHERE lease IS NOT NULL;

-- Whether a thread is named by somebody's phone: only these are forgotten in time, the others keep the ticket.
CREATE FUNCTION listener.names_phone(thread text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.regexp_replace(thread, '^[^:]*:|[ .()+-]', '', 'g') ~ '^(0|84|0084)?0?[35789][0-9]{8}$'
$$;
CREATE INDEX thread_of_phone ON listener.thread (used_on) WHERE listener.names_phone(name);

-- Up to which day the query of a watch by date has run.
CREATE TABLE listener.calendar (
    watch    text PRIMARY KEY,
    last_day date NOT NULL
);

CREATE SEQUENCE listener.message_id;

-- How many messages each rule made in each minute, and whether its brake holds: until a person releases it.
CREATE TABLE listener.rule_minute (
    rule   text NOT NULL,
    minute timestamptz NOT NULL,
    n      integer NOT NULL,
    PRIMARY KEY (rule, minute)
) WITH (fillfactor = 70);
CREATE TABLE listener.brake (
    rule    text PRIMARY KEY,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason  text NOT NULL
);

-- An SMS that is not finished.
CREATE TABLE listener.message (
    id            bigint PRIMARY KEY DEFAULT nextval('listener.message_id'),
    change_id     bigint NOT NULL,
    rule          text NOT NULL,
    rules_version integer NOT NULL,
    watch         text NOT NULL,
    key           text NOT NULL,
    account       text NOT NULL,
    thread_id     bigint,
    thread        text NOT NULL,
    priority      smallint NOT NULL DEFAULT 1 CHECK (priority IN (0, 1, 2)),
    phone         text,
    text          text,
    parts         integer,
    encoding      text,
    state         text NOT NULL,
    reason        text,
    -- the ERP's own ticket; the one sent last; the one the gateway named
    ticket_own    bigint,
    ticket_sent   bigint,
    ticket_id     bigint,
    -- what people should know of the ticket; joins the reason when the message is finished
    ticket_note   text,
    -- the gateway refused this message for its ticket: it goes without
    no_ticket     boolean NOT NULL DEFAULT false,
    if_unsure     text NOT NULL DEFAULT 'hold' CHECK (if_unsure IN ('hold', 'resend')),
    max_block     interval NOT NULL DEFAULT '10 min',
    -- permits to POST ever given; those that counted; those whose answer was not seen
    permits       integer NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    unsure        integer NOT NULL DEFAULT 0,
    -- row values for `ticket.save`
    save          jsonb,
    -- of a message that may still be joined with newer changes: the row and the time at which they began
    joins         jsonb,
    -- values that must still stand in the row when it is late
    recheck       jsonb,
    -- the next quiet hours after it is due: late, it waits until they are over
    quiet_at      timestamptz,
    quiet_until   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- its place in the thread; moves only when it has blocked the thread for max_block
    order_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    settled_at    timestamptz,
    lease         bigint,
    lease_until   timestamptz,
    CONSTRAINT message_state CHECK (state IN ('waiting', 'sending', 'unknown', 'held')),
    CONSTRAINT message_sending CHECK (state <> 'sending' OR (lease IS NOT NULL AND lease_until IS NOT NULL)),
    CONSTRAINT message_complete CHECK (phone IS NOT NULL AND text IS NOT NULL AND thread_id IS NOT NULL)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX message_once ON listener.message (change_id, rule, phone);
CREATE INDEX message_queue ON listener.message (thread_id, order_at, id) WHERE state = 'waiting';
CREATE UNIQUE INDEX message_one_sending ON listener.message (thread_id) WHERE state = 'sending';
CREATE INDEX message_unknown ON listener.message (thread_id) WHERE state = 'unknown';
CREATE INDEX message_lease_end ON listener.message (lease_until) WHERE state = 'sending';
CREATE INDEX message_joins ON listener.message (rule, key) WHERE state = 'waiting' AND joins IS NOT NULL;
CREATE INDEX message_phone ON listener.message (phone, id);
CREATE INDEX message_expiry ON listener.message (expires_at) WHERE state = 'waiting';

-- Whatever the code does, a message moves only as it may, and is sent only with a permit of its own. What a trigger's
-- WHEN refuses costs no call.
CREATE FUNCTION listener.refuse_transition() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a message cannot go from % to % (permits % to %)', OLD.state, NEW.state, OLD.permits, NEW.permits
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER transition BEFORE UPDATE OF state ON listener.message FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND (OLD.state, NEW.state) NOT IN
              (('waiting', 'sending'), ('waiting', 'held'), ('waiting', 'unknown'), ('sending', 'waiting'),
               ('sending', 'unknown'), ('sending', 'held'), ('unknown', 'waiting'), ('unknown', 'held'), ('held', 'waiting'))
          OR OLD.state <> 'sending' AND NEW.state = 'sending' AND NEW.permits <> OLD.permits + 1
          OR OLD.state = 'sending' AND NEW.state = 'sending' AND NEW.lease <> OLD.lease)
    EXECUTE FUNCTION listener.refuse_transition();

-- The message that is next in a thread. Inlined by the planner, so that it costs what its one index probe costs.
CREATE FUNCTION listener.head(of_thread bigint)
RETURNS TABLE (id bigint, due_at timestamptz, expires_at timestamptz, priority smallint, ticket_own bigint)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT m.id, m.due_at, m.expires_at, m.priority, m.ticket_own FROM listener.message m
     WHERE m.thread_id = of_thread AND m.state = 'waiting' ORDER BY m.order_at, m.id LIMIT 1
$$;

-- Messages that will not move again by themselves, by the day they were settled.
CREATE TABLE listener.finished (LIKE listener.message INCLUDING DEFAULTS) PARTITION BY RANGE (settled_at);
ALTER TABLE listener.finished
    ALTER settled_at SET NOT NULL,
    ALTER expires_at DROP NOT NULL,
    ADD CONSTRAINT finished_state CHECK (state IN
        ('accepted', 'rejected', 'expired', 'cancelled', 'superseded', 'suppressed', 'shadow'));
-- Only a late answer changes what is finished: it was sent after all.
CREATE TRIGGER transition BEFORE UPDATE OF state ON listener.finished FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND NOT (NEW.state = 'accepted' AND OLD.state IN ('cancelled', 'expired', 'rejected')))
    EXECUTE FUNCTION listener.refuse_transition();
CREATE INDEX finished_id ON listener.finished (id);
CREATE INDEX finished_phone ON listener.finished (phone, id);
CREATE INDEX finished_change ON listener.finished (change_id);
-- those that still hold what is to be removed after a time
CREATE INDEX finished_personal ON listener.finished (state, settled_at) WHERE phone IS NOT NULL OR text IS NOT NULL;

-- One row is one permission to write one request.
CREATE TABLE listener.attempt (
    message_id      bigint NOT NULL,
    n               integer NOT NULL,
    leased_at       timestamptz NOT NULL,
    lease           bigint NOT NULL,
    replica         uuid NOT NULL,
    ticket_sent     bigint,
    outcome         text CHECK (outcome IN
        ('accepted', 'rejected', 'ticket_refused', 'not_sent', 'rate_limited', 'locked_out', 'unauthorized',
         'misconfigured', 'unreachable', 'unknown')),
    http_status     integer,
    detail          text,
    ticket_received bigint,
    ms              integer,
    ended_at        timestamptz,
    PRIMARY KEY (message_id, n, leased_at)
) PARTITION BY RANGE (leased_at);

-- Changes as they were matched: for `why` and `replay`.
CREATE TABLE listener.change (
    id         bigint NOT NULL,
    watch      text NOT NULL,
    op         text NOT NULL,
    key        text NOT NULL,
    old        jsonb,
    new        jsonb,
    at         timestamptz NOT NULL,
    matched_at timestamptz NOT NULL,
    note       text,
    -- the rules that judged it
    rules_version integer
) PARTITION BY RANGE (matched_at);
CREATE INDEX change_id ON listener.change (id);
CREATE INDEX change_key ON listener.change (key, id);

-- Ticket ids on their way back into the ERP (`ticket.save`).
CREATE TABLE listener.ticket_save (
    message_id bigint PRIMARY KEY,
    rule       text NOT NULL,
    ticket_id  bigint NOT NULL,
    params     jsonb NOT NULL,
    tries      integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    error      text
);
CREATE INDEX ticket_save_due ON listener.ticket_save (due_at);

CREATE TABLE listener.replica (
    id         uuid PRIMARY KEY,
    version    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Makes the partitions of yesterday to a week ahead. SECURITY DEFINER, so that the daemon's role need not own tables.
-- Each is made apart and attached: created in place, it would lock out whoever reads or writes the table.
CREATE FUNCTION listener.make_days() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    parent text;
    child  text;
    day    date;
    today  date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('listener.make_days'));
    FOREACH parent IN ARRAY ARRAY['finished', 'attempt', 'change'] LOOP
        FOR day IN SELECT today + n FROM generate_series(-1, 7) n LOOP
            child := parent || to_char(day, '_YYYYMMDD');
            CONTINUE WHEN EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(format('listener.%I', child)) AND relispartition);
            EXECUTE format('CREATE TABLE IF NOT EXISTS listener.%I (LIKE listener.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS '
                           'INCLUDING INDEXES)', child, parent);
            EXECUTE format('ALTER TABLE listener.%I ATTACH PARTITION listener.%I FOR VALUES FROM (%L) TO (%L)', parent, child,
                           day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END LOOP;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION listener.make_days() FROM PUBLIC;

-- Drops the oldest partition whose every row is older than `keep`: its name, if there was one and nobody was in the way;
-- `more` when another call has something to do. It waits at most 40 ms for a lock, since everybody else waits behind it.
CREATE FUNCTION listener.drop_day(keep interval, OUT dropped text, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '40ms' AS $$
DECLARE
    old text[];
BEGIN
    IF keep < interval '2 days' THEN
        RAISE EXCEPTION 'everything is kept for two days at least' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    more := false;
    IF NOT pg_try_advisory_xact_lock(hashtext('listener.make_days')) THEN
        RETURN;
    END IF;
    SELECT array_agg(c.relname ORDER BY right(c.relname, 8), c.relname) INTO old
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent IN ('listener.finished'::regclass, 'listener.attempt'::regclass, 'listener.change'::regclass)
       AND c.relname ~ '_[0-9]{8}$'
       AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp <= (now() - keep) AT TIME ZONE 'UTC';
    IF old IS NULL THEN
        RETURN;
    END IF;
    more := true;
    EXECUTE format('DROP TABLE listener.%I', old[1]);
    dropped := old[1];
    more := cardinality(old) > 1;
EXCEPTION WHEN lock_not_available THEN
    -- somebody reads it: next time
END $$;
REVOKE ALL ON FUNCTION listener.drop_day(interval) FROM PUBLIC;
SELECT listener.make_days();

-- For people to read.
CREATE VIEW listener.messages AS
    SELECT id, rule, watch, key, thread, state, reason, phone, text, parts, encoding,
           coalesce(ticket_id, ticket_sent, ticket_own) AS ticket_id,
           attempts, account, rules_version, change_id, created_at, due_at, expires_at, settled_at
      FROM listener.message
    UNION ALL
    SELECT id, rule, watch, key, thread, state, reason, phone, text, parts, encoding,
           coalesce(ticket_id, ticket_sent, ticket_own),
           attempts, account, rules_version, change_id, created_at, due_at, expires_at, settled_at
      FROM listener.finished;

CREATE VIEW listener.tickets AS
    SELECT account, name AS thread, split_part(name, ':', 1) AS watch,
           substr(name, strpos(name, ':') + 1) AS key, ticket_id
      FROM listener.thread
     WHERE ticket_id IS NOT NULL;
