-- The schema itself and the list of what made it.
CREATE SCHEMA listener;
REVOKE ALL ON SCHEMA listener FROM PUBLIC;
CREATE TABLE listener.migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
