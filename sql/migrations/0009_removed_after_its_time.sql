-- Those that still hold what is to be removed after a time are all that it was not removed from: a message that was
-- rejected before it had a phone and a text holds a key, a reason, and the row that it came of.
DROP INDEX listener.finished_personal;
CREATE INDEX finished_personal ON listener.finished (state, settled_at)
 WHERE reason IS DISTINCT FROM 'phone and text were removed after their time';
