-- Why the query of a watch by date fails, and since when, so that people see it; nothing of it holds data.
ALTER TABLE listener.calendar
    ADD failing_since timestamptz,
    ADD failure text,
    ADD CHECK ((failing_since IS NULL) = (failure IS NULL));
