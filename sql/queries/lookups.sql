-- name: parameter_types
-- The types that the server inferred for the placeholders of a prepared lookup.
SELECT ARRAY(SELECT format_type(t, NULL) FROM unnest(parameter_types::oid[]) WITH ORDINALITY AS u(t, place) ORDER BY place) AS types
  FROM pg_prepared_statements WHERE name = 'listener_lookup';

-- name: forget
DEALLOCATE listener_lookup;
