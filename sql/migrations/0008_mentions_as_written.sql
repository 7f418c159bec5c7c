-- Whether a value, or one of the values of an object, holds digits that this regular expression finds, however they are
-- written: a phone may stand in a row by its number of now or by that of before 2018, also in wide digits.
CREATE OR REPLACE FUNCTION listener.mentions(value jsonb, digits text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE jsonb_typeof(value)
           WHEN 'object' THEN EXISTS (SELECT FROM jsonb_each_text(value) AS v
                                       WHERE regexp_replace(normalize(v.value, NFKC), '\D', '', 'g') ~ digits)
           WHEN 'null' THEN false
           ELSE coalesce(regexp_replace(normalize(value #>> '{}', NFKC), '\D', '', 'g') ~ digits, false) END
$$;
