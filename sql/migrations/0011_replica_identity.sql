-- Of a table that a publication FOR ALL TABLES holds, PostgreSQL changes no row that it cannot name to the subscriber. What
-- has no primary key is named by the whole row: written to the WAL for that only where wal_level is logical.
SELECT pg_advisory_xact_lock(hashtext('listener.make_days'));
ALTER TABLE listener.tally REPLICA IDENTITY FULL;

-- As before, but for the replica identity, which no partition has of the table it is made like.
CREATE OR REPLACE FUNCTION listener.make_days() RETURNS void
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
            IF parent <> 'attempt' THEN
                EXECUTE format('ALTER TABLE listener.%I REPLICA IDENTITY FULL', child);
            END IF;
            EXECUTE format('ALTER TABLE listener.%I ATTACH PARTITION listener.%I FOR VALUES FROM (%L) TO (%L)', parent, child,
                           day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END LOOP;
    END LOOP;
END $$;

DO $$
DECLARE
    day regclass;
BEGIN
    FOR day IN SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('listener.finished'::regclass, 'listener.change'::regclass) LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', day);
    END LOOP;
END $$;
