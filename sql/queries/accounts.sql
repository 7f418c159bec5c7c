-- name: add
INSERT INTO listener.account (name, stopped_until, stopped_reason)
SELECT n.name, p.until, p.reason
  FROM unnest(%(names)s::text[]) AS n(name)
  LEFT JOIN LATERAL listener.account_stop(n.name) AS p ON true
ON CONFLICT DO NOTHING;

-- name: pause
-- Stops an account for everyone, for at least so many seconds. Only a refusal of a request that began after the last
-- pause counts towards the streak: those in flight at the time belong to the same event.
UPDATE listener.account
   SET streak = streak + CASE WHEN paused_at IS NULL OR %(leased_at)s >= paused_at THEN 1 ELSE 0 END,
       paused_at = CASE WHEN paused_at IS NULL OR %(leased_at)s >= paused_at THEN clock_timestamp() ELSE paused_at END,
       paused_until = greatest(CASE WHEN pause_kind = %(kind)s OR pause_kind = 'lockout' THEN paused_until END,
                               clock_timestamp() + make_interval(secs => %(seconds)s)),
       pause_kind = CASE WHEN pause_kind = 'lockout' AND paused_until > clock_timestamp() THEN pause_kind ELSE %(kind)s END,
       pause_reason = CASE WHEN pause_kind = 'lockout' AND paused_until > clock_timestamp() THEN pause_reason ELSE %(reason)s END,
       token_print = %(token_print)s
 WHERE name = %(account)s;

-- name: streaks
SELECT streak, unsure_streak FROM listener.account WHERE name = %(account)s FOR UPDATE;

-- name: answered
-- The account answers as it should: an answer to a request that began after the last pause ends the probing.
UPDATE listener.account
   SET streak = 0, unsure_streak = 0, paused_at = NULL, paused_until = NULL, pause_kind = NULL, pause_reason = NULL
 WHERE name = %(account)s AND (streak > 0 OR unsure_streak > 0)
   AND (paused_at IS NULL OR paused_at <= %(leased_at)s);

-- name: unsure
UPDATE listener.account SET unsure_streak = unsure_streak + %(n)s WHERE name = %(account)s;

-- name: new_token
-- A pause for a refused token ends when the token is another one.
UPDATE listener.account SET paused_until = clock_timestamp()
 WHERE name = %(account)s AND pause_kind = 'token' AND token_print IS DISTINCT FROM %(token_print)s
   AND paused_until > clock_timestamp();

-- name: probe_again
UPDATE listener.account SET paused_until = clock_timestamp()
 WHERE name = %(account)s AND streak > 0 AND paused_at <= %(leased_at)s;

-- name: all
SELECT name, streak, pause_kind,
       CASE WHEN stopped_until > clock_timestamp() THEN greatest(stopped_until, paused_until)
            WHEN streak > 0 OR paused_until > clock_timestamp() THEN paused_until END AS paused_until,
       CASE WHEN stopped_until > clock_timestamp() THEN stopped_reason ELSE pause_reason END AS pause_reason
  FROM listener.account ORDER BY name;
