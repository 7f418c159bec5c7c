-- Nobody but those who are given it calls a function of ours.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA listener FROM PUBLIC;

-- Rights to the ERP's own tables, functions and schemas that `db install` gave the daemon's role, so that it can take them
-- back when the rules no longer need them. By name, so that a dump of this schema can be restored anywhere.
CREATE TABLE listener.given (
    role      text NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('TABLE', 'FUNCTION', 'SCHEMA')),
    object    text NOT NULL,
    -- '' for the object as a whole
    col       text NOT NULL,
    privilege text NOT NULL,
    PRIMARY KEY (role, kind, object, col, privilege)
);
