-- A message never waits for a phone that is on the suppression list, as it never waits where it is paused: one that was
-- being sent when the phone came on the list, and comes back unsent, is held.
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
       AND (until IS NULL OR until > clock_timestamp())
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
