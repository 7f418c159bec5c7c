-- What a pause held is let go of a part at a time. Until the last part, also once its time is over (`until` no later than
-- `since` says that its end has begun), it holds what is new, which would go before what is older in its thread. Whoever
-- lets go of a part lifts it for that transaction: `until` is then -infinity.
CREATE OR REPLACE FUNCTION listener.hold_if_paused() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    stop listener.pause;
BEGIN
    NEW.held_by := NULL;
    -- Mostly there is neither: one question.
    IF NOT (EXISTS (SELECT FROM listener.pause) OR EXISTS (SELECT FROM listener.suppression WHERE phone = NEW.phone)) THEN
        RETURN NEW;
    END IF;
    SELECT * INTO stop FROM listener.pause
     WHERE (target = 'rule' AND value = NEW.rule OR target = 'phone' AND value = NEW.phone)
       AND until IS DISTINCT FROM '-infinity'
     ORDER BY target DESC LIMIT 1;
    IF FOUND THEN
        NEW.state := 'held';
        NEW.held_by := stop.id;
        NEW.reason := format('the %s is paused: %s', stop.target, stop.reason);
    ELSIF EXISTS (SELECT FROM listener.suppression WHERE phone = NEW.phone) THEN
        NEW.state := 'held';
        NEW.reason := 'the phone is on the suppression list';
    END IF;
    RETURN NEW;
END $$;
