-- name: add
INSERT INTO listener.account (name, stopped_until, stopped_reason)
SELECT n.name, p.until, p.reason
  FROM unnest(%(names)s::text[]) AS n(name)
  LEFT JOIN LATERAL listener.account_stop(n.name) AS p ON true
ON CONFLICT DO NOTHING;

-- name: standing
-- How an account stands, locked for this transaction.
SELECT streak, unsure_streak, probe, paused_at FROM listener.account WHERE name = %(account)s FOR UPDATE;

-- name: pause
-- Stops an account for everyone for so many seconds. A lock-out is never shortened.
UPDATE listener.account
   SET streak = streak + CASE WHEN streak = 0 OR probe = %(lease)s THEN 1 ELSE 0 END,
       paused_at = clock_timestamp(),
       paused_until = greatest(CASE WHEN %(kind)s = 'lockout' THEN paused_until END,
                               clock_timestamp() + make_interval(secs => %(seconds)s)),
       pause_kind = %(kind)s, pause_reason = %(reason)s, token_print = %(token_print)s,
       probe = nullif(probe, %(lease)s)
 WHERE name = %(account)s;

-- name: answered
-- The account answers as it should: the probe's answer ends the pause, any answer ends a run of unclear ones.
UPDATE listener.account
   SET streak = 0, unsure_streak = 0, probe = NULL, paused_until = NULL, pause_kind = NULL, pause_reason = NULL
 WHERE name = %(account)s AND (probe = ANY(%(leases)s::bigint[]) OR (streak = 0 AND unsure_streak > 0));

-- name: unsure
UPDATE listener.account SET unsure_streak = unsure_streak + 1 WHERE name = %(account)s;

-- name: new_token
-- A pause for a refused token ends when the token is another one.
UPDATE listener.account SET paused_until = clock_timestamp()
 WHERE name = %(account)s AND pause_kind = 'token' AND token_print IS DISTINCT FROM %(token_print)s
   AND paused_until > clock_timestamp();

-- name: probe_again
UPDATE listener.account SET paused_until = clock_timestamp(), probe = NULL
 WHERE name = %(account)s AND probe = %(lease)s;

-- name: clock_set_back
-- A pause is a length of time: when the server's clock was set back behind its beginning, it begins anew.
UPDATE listener.account
   SET paused_until = clock_timestamp() + (paused_until - paused_at), paused_at = clock_timestamp()
 WHERE paused_at > clock_timestamp() + interval '5 s';

-- name: all
SELECT name,
       CASE WHEN stopped_until > clock_timestamp() THEN greatest(stopped_until, paused_until)
            WHEN streak > 0 OR paused_until > clock_timestamp() THEN paused_until END AS paused_until,
       CASE WHEN stopped_until > clock_timestamp() THEN stopped_reason ELSE pause_reason END AS pause_reason
  FROM listener.account ORDER BY name;
