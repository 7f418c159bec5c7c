-- name: parameter_types
-- The types that the server inferred for the placeholders of a prepared lookup, of any length: what SQL calls `character`
-- or `bit` has the length 1, to which a cast would cut every value.
SELECT ARRAY(SELECT format_type(t, -1) FROM unnest(parameter_types::oid[]) WITH ORDINALITY AS u(t, place) ORDER BY place) AS types
  FROM pg_prepared_statements WHERE name = 'listener_lookup';

-- name: forget
DEALLOCATE listener_lookup;
