-- Notes that an update may be about to move a row to another partition, for the capture triggers of the row's two halves:
-- which row would go, and the key it would come with. Their conditions read it while the statement runs. Only between
-- the beginning and the end of an UPDATE or MERGE of a partitioned table, since one of a partition itself moves nothing
-- and its end is told to nobody; and by the depth of triggers, since those of the ERP may move rows meanwhile. Runs with
-- the ERP's own rights, so every name in it is qualified; it can neither fail nor change the row.
CREATE OR REPLACE FUNCTION listener.mark_move() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    moving constant pg_catalog.text :=
        pg_catalog.concat('listener.moving_', pg_catalog.pg_trigger_depth(), '_', TG_ARGV[0]);
BEGIN
    IF TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
        PERFORM pg_catalog.set_config(moving, CASE WHEN TG_WHEN OPERATOR(pg_catalog.=) 'BEFORE' THEN 'begun' ELSE '' END,
                                      true);
        RETURN NULL;
    END IF;
    IF pg_catalog.current_setting(moving, true) OPERATOR(pg_catalog.<>) '' THEN
        BEGIN
            PERFORM pg_catalog.set_config(moving, pg_catalog.concat(OLD.tableoid, OLD.ctid, ' ', (
                SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.->) name)
                  FROM pg_catalog.unnest(TG_ARGV[1:]) AS name)), true);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    RETURN NEW;
END $$;
