-- name: make_threads
-- Those that are new. Each is put in the queue at once by what is to be its first message (due NULL: none), so that
-- `wake_threads_by_name` need not touch it again.
INSERT INTO listener.thread (account, name, next_at, priority)
SELECT DISTINCT ON (account, name) account, name, CASE WHEN due_at IS NOT NULL THEN greatest(due_at, now()) END,
       coalesce(priority, 1)
  FROM unnest(%(accounts)s::text[], %(names)s::text[], %(due)s::timestamptz[], %(priorities)s::smallint[])
       AS n(account, name, due_at, priority)
ON CONFLICT DO NOTHING;

-- name: lock_threads_by_name
-- In the order of their ids, so that matcher and senders cannot deadlock. Found first and then put in order: the order of
-- all that wait would be looked through for it. A statement of its own: it has to see a thread for whose maker
-- `make_threads` had to wait.
SELECT id FROM listener.thread
 WHERE id = ANY (ARRAY(SELECT t.id FROM unnest(%(accounts)s::text[], %(names)s::text[]) AS n(account, name)
                         JOIN listener.thread t ON t.account = n.account AND t.name = n.name))
 ORDER BY id FOR UPDATE;

-- name: insert
-- Unfinished messages of one batch, from a JSON array of rows in the order of their changes. They queue by the time of this
-- statement: their threads are locked by now, which may have taken longer after BEGIN than another batch took altogether.
-- One whose row is to be read again is as old as its change, however long that had to wait to be matched.
INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                              text, parts, encoding, state, reason, ticket_own, if_unsure, max_block, save, joins, recheck,
                              created_at, order_at, due_at, expires_at, quiet_at, quiet_until)
SELECT m.change_id, m.rule, %(version)s, m.watch, m.key, m.account, t.id, m.thread, m.priority, m.phone, m.text, m.parts,
       m.encoding, m.state, m.reason, m.ticket_own, m.if_unsure, make_interval(secs => m.max_block_s), m.save, m.joins, m.recheck,
       coalesce(m.made_at, clock_timestamp()), greatest(m.due_at, statement_timestamp()), greatest(m.due_at, now()),
       m.expires_at, m.quiet_at, m.quiet_until
  FROM json_to_recordset(%(rows)s::json) AS m(
           place integer, change_id bigint, rule text, watch text, key text, account text, thread text, priority smallint,
           phone text, text text, parts integer, encoding text, state text, reason text, ticket_own bigint,
           if_unsure text, max_block_s float8, save jsonb, joins jsonb, recheck jsonb, made_at timestamptz,
           due_at timestamptz, expires_at timestamptz, quiet_at timestamptz, quiet_until timestamptz)
  JOIN listener.thread t ON t.account = m.account AND t.name = m.thread
 ORDER BY m.place
ON CONFLICT (change_id, rule, phone) DO NOTHING;

-- name: insert_finished
-- Messages that are finished before they began: rejected, shadow, suppressed, expired. Of these only the expired are
-- ever sent as they are.
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread, priority, phone, text,
                               parts, encoding, state, reason, ticket_own, if_unsure, max_block, save, recheck, quiet_at,
                               quiet_until, settled_at)
SELECT nextval('listener.message_id'), m.change_id, m.rule, %(version)s, m.watch, m.key, m.account, m.thread, m.priority,
       m.phone, m.text, m.parts, m.encoding, m.state, m.reason, m.ticket_own, m.if_unsure,
       make_interval(secs => m.max_block_s), CASE m.state WHEN 'expired' THEN m.save END,
       CASE m.state WHEN 'expired' THEN m.recheck END, m.quiet_at, m.quiet_until, clock_timestamp()
  FROM json_to_recordset(%(rows)s::json) AS m(
           place integer, change_id bigint, rule text, watch text, key text, account text, thread text, priority smallint,
           phone text, text text, parts integer, encoding text, state text, reason text, ticket_own bigint,
           if_unsure text, max_block_s float8, save jsonb, recheck jsonb, quiet_at timestamptz, quiet_until timestamptz)
 ORDER BY m.place;

-- name: wake_threads_by_name
-- Puts each thread that is not leased in the queue, by its first waiting message.
UPDATE listener.thread t
   SET next_at = w.next_at, priority = w.priority
  FROM (SELECT t.id, coalesce(h.priority, t.priority) AS priority,
               CASE WHEN t.ticket_id IS NULL AND h.ticket_own IS NULL AND h.due_at IS NOT NULL
                    THEN greatest(h.due_at, t.ticket_wait_until) ELSE h.due_at END AS next_at
          FROM (SELECT DISTINCT * FROM unnest(%(accounts)s::text[], %(names)s::text[])) AS n(account, name)
          JOIN listener.thread t ON t.account = n.account AND t.name = n.name
          LEFT JOIN LATERAL listener.head(t.id) AS h ON true) AS w
 WHERE t.id = w.id AND t.lease IS NULL
   AND (t.next_at IS DISTINCT FROM w.next_at OR t.priority <> w.priority);

-- name: lock_account
-- Before the claim, so that whoever had to wait sees the slots that were given meanwhile: a statement that waits for a
-- row goes on with what it worked out from the row as it was.
SELECT FROM listener.account WHERE name = %(account)s FOR UPDATE;

-- name: claim
-- Takes up to %(want)s free slots of the account and as many threads with something due. While the account is being
-- probed (streak > 0) one slot is given and the pause is moved ahead, so that one request at a time is on its way.
-- What is due is told by statement_timestamp(): no index can be searched for clock_timestamp(), which changes while it is
-- searched, and all that waits for later would be read.
WITH slot AS (
    UPDATE listener.account a
       SET next_slot = CASE WHEN %(interval)s::float8 = 0 THEN a.next_slot
                            ELSE s.base + s.granted * make_interval(secs => %(interval)s::float8) END,
           probe = CASE WHEN a.streak > 0 THEN %(lease)s::bigint END,
           paused_at = CASE WHEN a.streak > 0 THEN clock_timestamp() ELSE a.paused_at END,
           paused_until = CASE WHEN a.streak > 0 THEN clock_timestamp() + make_interval(secs => %(probe)s::float8) END
      FROM (SELECT b.name, base, least(
                       CASE WHEN b.streak > 0 THEN 1 ELSE %(want)s::integer END,
                       CASE WHEN %(interval)s::float8 = 0 THEN %(want)s::integer
                            ELSE 1 + floor(extract(epoch FROM clock_timestamp() - base) / %(interval)s::float8)::integer END
                   ) AS granted
              FROM listener.account b,
                   -- A slot missed by up to %(slack)s may be made up for; one further ahead than this statement ever
                   -- puts it is a clock that was set back.
                   LATERAL (SELECT CASE WHEN b.next_slot > clock_timestamp() + make_interval(secs => 1 + %(interval)s::float8)
                                        THEN clock_timestamp()
                                        ELSE greatest(b.next_slot, clock_timestamp() - make_interval(secs => %(slack)s::float8))
                                   END AS base) AS l
             WHERE b.name = %(account)s) AS s
     WHERE a.name = s.name
       AND s.base <= clock_timestamp()
       AND (a.paused_until IS NULL OR a.paused_until <= clock_timestamp())
       AND (a.stopped_until IS NULL OR a.stopped_until <= clock_timestamp())
       AND EXISTS (SELECT FROM listener.thread WHERE account = %(account)s AND priority = 0 AND next_at <= statement_timestamp()
                   UNION ALL
                   SELECT FROM listener.thread WHERE account = %(account)s AND priority = 1 AND next_at <= statement_timestamp()
                   UNION ALL
                   SELECT FROM listener.thread WHERE account = %(account)s AND priority = 2 AND next_at <= statement_timestamp())
    RETURNING s.granted
), urgent AS (
    SELECT id, next_at - interval '10 min' AS rank FROM listener.thread
     WHERE account = %(account)s AND priority = 0 AND next_at <= statement_timestamp()
     ORDER BY next_at LIMIT coalesce((SELECT granted FROM slot), 0) FOR UPDATE SKIP LOCKED
), normal AS (
    SELECT id, next_at AS rank FROM listener.thread
     WHERE account = %(account)s AND priority = 1 AND next_at <= statement_timestamp()
     ORDER BY next_at LIMIT coalesce((SELECT granted FROM slot), 0) FOR UPDATE SKIP LOCKED
), bulk AS (
    -- Ten minutes of waiting outweigh a priority: bulk is late, and never starves.
    SELECT id, next_at + interval '10 min' AS rank FROM listener.thread
     WHERE account = %(account)s AND priority = 2 AND next_at <= statement_timestamp()
     ORDER BY next_at LIMIT coalesce((SELECT granted FROM slot), 0) FOR UPDATE SKIP LOCKED
)
UPDATE listener.thread t SET lease = %(lease)s, next_at = NULL
  FROM (SELECT id FROM (SELECT * FROM urgent UNION ALL SELECT * FROM normal UNION ALL SELECT * FROM bulk) AS u
         ORDER BY rank LIMIT coalesce((SELECT granted FROM slot), 0)) AS pick
 WHERE t.id = pick.id;

-- name: insert_armed
-- New messages that go at once, each the first of its thread, made with their permits, and the changes that they come from
-- ended: all of it, or nothing. Not unless a person has paused nothing, nothing else of the account is due, there are slots
-- for all, and nobody is at the account or at one of the threads, in none of which anything waits or is on its way; so it
-- waits for nobody. Should somebody come in between all the same, a constraint is violated or a lock not had in time.
WITH m AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS m(
               place integer, change_id bigint, rule text, watch text, key text, account text, thread text, priority smallint,
               phone text, text text, parts integer, encoding text, ticket_own bigint, if_unsure text, max_block_s float8,
               save jsonb, recheck jsonb, expires_at timestamptz, quiet_at timestamptz, quiet_until timestamptz)
), known AS MATERIALIZED (
    SELECT t.lease IS NULL AND t.next_at IS NULL AND t.ticket_wait_until IS NULL
           AND (t.refused_ticket = m.ticket_own) IS NOT TRUE AS idle
      FROM m JOIN listener.thread t ON t.account = m.account AND t.name = m.thread
       FOR UPDATE OF t SKIP LOCKED
), ready AS MATERIALIZED (
    -- Of the account by its columns alone: what a subquery makes of them would not be worked out anew from the row as it
    -- is locked, should somebody have taken the slot meanwhile.
    SELECT a.name FROM listener.account a
     WHERE a.name = %(account)s AND a.streak = 0 AND NOT EXISTS (SELECT FROM listener.pause)
       AND greatest(a.next_slot, clock_timestamp() - make_interval(secs => %(slack)s::float8))
           + (%(want)s::integer - 1) * make_interval(secs => %(interval)s::float8) <= clock_timestamp()
       AND (a.stopped_until IS NULL OR a.stopped_until <= clock_timestamp())
       AND NOT EXISTS (SELECT FROM unnest(ARRAY[0, 1, 2]) AS p(priority), LATERAL (
                           SELECT FROM listener.thread t
                            WHERE t.account = a.name AND t.priority = p.priority AND t.next_at <= statement_timestamp() LIMIT 1) AS d)
       AND (SELECT count(*) FROM known WHERE idle)
           = (SELECT count(*) FROM m JOIN listener.thread t ON t.account = m.account AND t.name = m.thread)
       FOR UPDATE OF a SKIP LOCKED
), slot AS (
    UPDATE listener.account a
       SET next_slot = greatest(a.next_slot, clock_timestamp() - make_interval(secs => %(slack)s::float8))
                       + %(want)s::integer * make_interval(secs => %(interval)s::float8)
      FROM ready WHERE a.name = ready.name
    -- Whoever holds a permit may send: it must outlive a crash. Who is just making one of the threads is not waited for.
    RETURNING set_config('synchronous_commit', 'on', true) AS durable, set_config('lock_timeout', '20ms', true)
), taken AS (
    INSERT INTO listener.thread AS t (account, name, priority, lease)
    SELECT m.account, m.thread, m.priority, %(lease)s FROM m, slot WHERE slot.durable = 'on'
    ON CONFLICT (account, name) DO UPDATE SET priority = excluded.priority, lease = excluded.lease
    RETURNING t.id, t.name, t.ticket_id
), made AS (
    INSERT INTO listener.message (change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone,
                                  text, parts, encoding, state, ticket_own, ticket_sent, if_unsure, max_block, save, recheck,
                                  permits, attempts, order_at, due_at, expires_at, quiet_at, quiet_until, lease, lease_until)
    SELECT m.change_id, m.rule, %(version)s, m.watch, m.key, m.account, taken.id, m.thread, m.priority, m.phone,
           m.text, m.parts, m.encoding, 'sending', m.ticket_own, coalesce(m.ticket_own, taken.ticket_id), m.if_unsure,
           make_interval(secs => m.max_block_s), m.save, m.recheck, 1, 1, now(), now(), m.expires_at, m.quiet_at,
           m.quiet_until, %(lease)s, clock_timestamp() + make_interval(secs => %(deadline)s::float8)
      FROM m JOIN taken ON taken.name = m.thread
     ORDER BY m.place
    RETURNING id, permits, thread_id, account, rule, phone, text, ticket_sent, watch, key, NULL::jsonb AS recheck,
              clock_timestamp() AS leased_at
), permit AS (
    INSERT INTO listener.attempt (message_id, n, leased_at, lease, replica, ticket_sent)
    SELECT id, permits, leased_at, %(lease)s, %(replica)s, ticket_sent FROM made
), gone AS (
    DELETE FROM listener.outbox o USING ready WHERE o.id = ANY(%(ids)s::bigint[]) RETURNING o.*
), kept AS (
    INSERT INTO listener.change (id, watch, op, key, old, new, at, matched_at, rules_version)
    SELECT id, watch, op, key, old, new, at, clock_timestamp(), %(version)s FROM gone
)
SELECT made.*, %(lease)s::bigint AS lease, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS written
  FROM made;

-- name: hush
-- Late messages at the head of claimed threads that would fall into quiet hours wait until these are over, and do not grow
-- older meanwhile.
UPDATE listener.message m
   SET due_at = greatest(m.due_at, m.quiet_until), order_at = greatest(m.order_at, m.quiet_until),
       expires_at = m.expires_at + greatest(interval '0', m.quiet_until - greatest(m.due_at, m.quiet_at)),
       quiet_at = m.quiet_at + n.days * interval '1 day', quiet_until = m.quiet_until + n.days * interval '1 day'
  FROM (SELECT x.id, greatest(1, ceil(extract(epoch FROM clock_timestamp() - x.quiet_until) / 86400)) AS days
          FROM listener.message x
         WHERE x.id = ANY(ARRAY(SELECT h.id FROM listener.thread t, listener.head(t.id) AS h WHERE t.lease = %(lease)s))
           AND x.quiet_at <= clock_timestamp() AND x.expires_at > clock_timestamp()) AS n
 WHERE m.id = n.id;

-- name: arm
-- The first message of each claimed thread gets its permit: one row of attempt, one request. The state is compared as an
-- expression, so that no plan ever walks a partial index of all that waits instead of the few primary keys. Claimed threads
-- in which nothing can be armed go back into the queue, or out of it.
WITH armed AS (
    UPDATE listener.message m
       SET state = 'sending', lease = %(lease)s, permits = m.permits + 1, attempts = m.attempts + 1,
           lease_until = clock_timestamp() + make_interval(secs => %(deadline)s::float8),
           ticket_sent = CASE WHEN NOT m.no_ticket THEN coalesce(nullif(m.ticket_own, t.refused_ticket), t.ticket_id) END,
           ticket_note = CASE WHEN m.no_ticket THEN m.ticket_note
                              WHEN m.ticket_own = t.refused_ticket
                              THEN format('ticket %%s was refused before: not asked for again', m.ticket_own)
                              WHEN m.ticket_own IS NULL AND t.ticket_id IS NULL AND t.ticket_wait_until IS NOT NULL
                              THEN 'without a ticket: the message that may have made one was not answered' END
      FROM listener.thread t
     WHERE t.id = m.thread_id
       AND m.id = ANY(ARRAY(SELECT h.id FROM listener.thread x, listener.head(x.id) AS h WHERE x.lease = %(lease)s))
       AND m.state || '' = 'waiting'
       AND m.due_at <= clock_timestamp() AND m.expires_at > clock_timestamp()
       AND (m.quiet_at IS NULL OR m.quiet_at > clock_timestamp())
    RETURNING m.id, m.permits, m.thread_id, m.account, m.rule, m.phone, m.text, m.ticket_sent, m.watch, m.key,
              CASE WHEN m.created_at < clock_timestamp() - make_interval(secs => %(late)s::float8) THEN m.recheck END AS recheck
), permit AS (
    INSERT INTO listener.attempt (message_id, n, leased_at, lease, replica, ticket_sent)
    SELECT id, permits, statement_timestamp(), %(lease)s, %(replica)s, ticket_sent FROM armed
), let_go AS (
    UPDATE listener.thread t
       SET lease = NULL,
           -- an expired one is about to be filed by the upkeep
           next_at = (SELECT CASE WHEN h.expires_at <= clock_timestamp() THEN clock_timestamp() + interval '1 s'
                                  WHEN t.ticket_id IS NULL AND h.ticket_own IS NULL THEN greatest(h.due_at, t.ticket_wait_until)
                                  ELSE h.due_at END
                        FROM listener.head(t.id) AS h)
     WHERE t.lease = %(lease)s AND t.id <> ALL (ARRAY(SELECT thread_id FROM armed))
)
SELECT armed.*, %(lease)s::bigint AS lease, statement_timestamp() AS leased_at,
       (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS written
  FROM armed;

-- name: unused_probe
-- A probe for which nothing could be armed: the next one need not wait for its answer.
UPDATE listener.account SET paused_until = clock_timestamp(), probe = NULL
 WHERE name = %(account)s AND probe = %(lease)s AND NOT EXISTS (SELECT FROM listener.thread WHERE lease = %(lease)s);

-- name: next_look
-- In how many seconds the account may next send, and in how many something is due (NULL when nothing waits); and how much
-- of the server's log is on its disk, by which a server that has gone back can be told.
SELECT greatest(0, extract(epoch FROM greatest(
           CASE WHEN %(interval)s::float8 > 0 AND a.next_slot <= clock_timestamp() + make_interval(secs => 1 + %(interval)s::float8)
                THEN a.next_slot END,
           a.paused_until, a.stopped_until,
           clock_timestamp()) - clock_timestamp()))::float8 AS slot_in,
       extract(epoch FROM w.next_at - clock_timestamp())::float8 AS due_in,
       (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS durable
  FROM listener.account a,
       LATERAL (SELECT min(f.next_at) AS next_at FROM unnest(ARRAY[0, 1, 2]) AS p(priority), LATERAL (
           SELECT t.next_at FROM listener.thread t
            WHERE t.account = a.name AND t.priority = p.priority AND t.next_at IS NOT NULL ORDER BY t.next_at LIMIT 1) AS f) AS w
 WHERE a.name = %(account)s;

-- name: due
-- Threads with something due: those that can be sent by way of these accounts now, and those that cannot.
SELECT count(*) FILTER (WHERE s.sendable) AS sendable, count(*) FILTER (WHERE NOT s.sendable) AS stopped,
       count(*) FILTER (WHERE NOT s.sendable AND a.pause_kind = 'unreachable') AS unreachable
  FROM listener.thread t
  JOIN listener.account a ON a.name = t.account
 CROSS JOIN LATERAL (SELECT a.name = ANY(%(accounts)s::text[])
                            AND (greatest(a.paused_until, a.stopped_until) > clock_timestamp()) IS NOT TRUE AS sendable) AS s
 WHERE t.next_at <= statement_timestamp();

-- name: leased
-- What one lease armed, as far as it is still open, or was given up meanwhile.
SELECT m.id, m.permits, m.thread_id, m.account, m.lease, a.leased_at
  FROM listener.message m
  JOIN listener.attempt a ON a.message_id = m.id AND a.n = m.permits AND a.lease = m.lease
 WHERE m.lease = %(lease)s AND m.state IN ('sending', 'unknown');

-- name: ended_leases
-- Leases whose holder did not come back in time.
SELECT m.id, m.permits, m.thread_id, m.account, m.lease, a.leased_at
  FROM listener.message m
  JOIN listener.attempt a ON a.message_id = m.id AND a.n = m.permits AND a.lease = m.lease
 WHERE m.state = 'sending' AND m.lease_until < statement_timestamp()
 ORDER BY m.lease_until LIMIT 500;

-- name: lock_threads
SELECT id FROM listener.thread WHERE id = ANY(%(threads)s::bigint[]) ORDER BY id FOR UPDATE;

-- name: record
-- What became of each permit. A fact (an answer that was seen) replaces "unknown", and nothing else is ever replaced.
UPDATE listener.attempt a
   SET outcome = r.outcome, http_status = r.http_status, detail = r.detail, ticket_received = r.ticket_received,
       ms = coalesce(r.ms, a.ms), ended_at = clock_timestamp()
  FROM json_to_recordset(%(results)s::json) AS r(
           id bigint, n integer, leased_at timestamptz, outcome text, http_status integer, detail text,
           ticket_received bigint, ms integer)
 WHERE a.message_id = r.id AND a.n = r.n AND a.leased_at = r.leased_at
   AND (a.outcome IS NULL OR (a.outcome = 'unknown' AND r.outcome <> 'unknown'));

-- name: finish
-- Accepted, rejected and outdated messages leave the queue. One that was perhaps sent before is never called rejected;
-- one whose earlier permit was answered while this one was under way is accepted, whatever came of this one. When some
-- are not in the queue any more, a person may have given them up meanwhile: these were sent after all. Of one that a person
-- knew to have arrived the ticket comes to be known.
WITH gone AS (
    DELETE FROM listener.message m
     USING json_to_recordset(%(results)s::json) AS r(id bigint, n integer, lease bigint, state text, reason text,
                                                       counts boolean, ticket_received bigint)
      LEFT JOIN LATERAL (SELECT true AS accepted, a.ticket_received FROM listener.attempt a
                          WHERE r.n > 1 AND r.state <> 'accepted' AND a.message_id = r.id AND a.outcome = 'accepted'
                          LIMIT 1) AS earlier ON true
     WHERE m.id = r.id
           -- an answer about any permit proves it, also after a person asked for another one
       AND ((r.state = 'accepted' AND (m.lease = r.lease OR m.state <> 'sending'))
            OR (m.lease = r.lease AND m.state IN ('sending', 'unknown')
                AND (earlier.accepted
                     OR (r.state IN ('rejected', 'superseded')
                         AND (m.unsure = 0 OR NOT EXISTS (
                             SELECT FROM listener.attempt a WHERE a.message_id = m.id AND a.outcome = 'unknown'))))))
    RETURNING m.*, CASE WHEN earlier.accepted THEN 'accepted' ELSE r.state END AS new_state,
              concat_ws('; ', CASE WHEN earlier.accepted THEN 'an earlier request was answered after all' END, r.reason) AS new_reason,
              coalesce(r.ticket_received, earlier.ticket_received) AS ticket_received,
              CASE WHEN r.counts THEN 0 ELSE 1 END AS uncounted
), kept AS (
    INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                                   phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                                   ticket_note, no_ticket, if_unsure, max_block, permits, attempts, unsure, save, recheck,
                                   quiet_at, quiet_until, created_at, order_at, due_at, expires_at, settled_at, lease)
    SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts,
           encoding, new_state, nullif(concat_ws('; ', ticket_note, nullif(new_reason, '')), ''), ticket_own, ticket_sent,
           ticket_received, ticket_note, no_ticket, if_unsure, max_block, permits, attempts - uncounted, unsure, save,
           CASE new_state WHEN 'rejected' THEN recheck END, quiet_at, quiet_until, created_at, order_at, due_at, expires_at,
           clock_timestamp(), lease
      FROM gone
), late AS (
    UPDATE listener.finished f
       SET state = 'accepted', ticket_id = r.ticket_received,
           reason = concat_ws('; ', CASE WHEN f.state <> 'accepted' THEN 'sent after all' END, r.reason, f.reason)
      FROM json_to_recordset(%(results)s::json) AS r(id bigint, state text, reason text, ticket_received bigint)
     WHERE (SELECT count(*) FROM gone) < json_array_length(%(results)s::json)
       AND f.id = r.id AND r.state = 'accepted'
       AND (f.state IN ('cancelled', 'expired', 'rejected') OR f.state = 'accepted' AND f.ticket_id IS NULL)
       AND f.settled_at > now() - interval '1 day'
    RETURNING f.id, f.rule, f.ticket_id, f.ticket_own, f.save
)
INSERT INTO listener.ticket_save (message_id, rule, ticket_id, params)
SELECT id, rule, ticket_id, save
  FROM (SELECT id, rule, ticket_received AS ticket_id, ticket_own, save FROM gone WHERE new_state = 'accepted'
        UNION ALL
        SELECT id, rule, ticket_id, ticket_own, save FROM late) AS sent
 WHERE save IS NOT NULL AND ticket_id IS NOT NULL AND ticket_id IS DISTINCT FROM ticket_own
ON CONFLICT DO NOTHING;

-- name: put_back
-- Messages that stay: to be tried again, or unknown. One that waits for its retry keeps its place in the thread for
-- max_block, then queues anew; what stops the whole account (retry_s 0) is no reason to lose one's place. It is looked for on
-- its ticket anew, should it be unknown once more.
UPDATE listener.message m
   SET state = s.state,
       reason = r.reason,
       unsure = CASE WHEN 'unknown' IN (m.state, r.state)
                     THEN (SELECT count(*) FROM listener.attempt a WHERE a.message_id = m.id AND a.outcome = 'unknown')
                     ELSE m.unsure END,
       attempts = m.attempts - CASE WHEN r.counts THEN 0 ELSE 1 END,
       no_ticket = m.no_ticket OR r.no_ticket,
       ticket_note = CASE WHEN r.no_ticket THEN r.reason ELSE m.ticket_note END,
       due_at = CASE WHEN s.state = 'waiting' THEN clock_timestamp() + make_interval(secs => r.retry_s) ELSE m.due_at END,
       order_at = CASE WHEN s.state = 'waiting' AND r.retry_s > 0 AND clock_timestamp() + make_interval(secs => r.retry_s) > m.order_at + m.max_block
                       THEN clock_timestamp() + make_interval(secs => r.retry_s) ELSE m.order_at END,
       looks = CASE WHEN s.state = 'waiting' THEN 0 ELSE m.looks END,
       look_at = CASE WHEN s.state = 'waiting' THEN NULL ELSE m.look_at END,
       lease_until = NULL
  FROM json_to_recordset(%(results)s::json) AS r(
           id bigint, lease bigint, state text, reason text, counts boolean, no_ticket boolean, retry_s float8),
       LATERAL (SELECT CASE
           -- perhaps sent, and the rule prefers a second SMS to none: once
           WHEN r.state = 'unknown' AND m2.if_unsure = 'resend' AND m2.unsure = 0 THEN 'waiting'
           -- surely not sent this time says nothing about an earlier time that was not seen
           WHEN r.state IN ('rejected', 'superseded') THEN 'unknown'
           ELSE r.state END AS state FROM listener.message m2 WHERE m2.id = r.id) AS s
 WHERE m.id = r.id AND m.lease = r.lease
   AND (m.state = 'sending'
        -- a permit that was given up as unknown proves to be unused, and no other one is unclear
        OR (m.state = 'unknown' AND r.state = 'waiting'
            AND NOT EXISTS (SELECT FROM listener.attempt a WHERE a.message_id = m.id AND a.outcome = 'unknown')));

-- name: free_threads
-- The answer's ticket becomes the thread's, the lease ends, and the thread queues again by its next message. Followers
-- of an unanswered message wait a while for the ticket that it may have made. `more` says that something follows.
UPDATE listener.thread t
   SET lease = CASE WHEN t.lease = k.lease THEN NULL ELSE t.lease END,
       ticket_id = k.ticket_id,
       refused_ticket = coalesce(k.refused_ticket, t.refused_ticket),
       ticket_wait_until = k.wait_until,
       used_on = current_date,
       next_at = CASE WHEN t.lease <> k.lease THEN NULL
                      WHEN k.ticket_id IS NULL AND k.ticket_own IS NULL AND k.due_at IS NOT NULL THEN greatest(k.due_at, k.wait_until)
                      ELSE k.due_at END,
       priority = coalesce(k.priority, t.priority)
  FROM (SELECT r.thread_id, r.lease, h.due_at, h.priority, h.ticket_own,
               CASE WHEN r.ticket_refused THEN r.ticket_sent END AS refused_ticket,
               CASE WHEN r.ticket_refused AND x.ticket_id = r.ticket_sent THEN NULL
                    -- the gateway named another ticket than the one remembered and sent: it is the one in use now
                    WHEN r.ticket_received IS NOT NULL AND x.ticket_id = r.ticket_sent THEN r.ticket_received
                    ELSE coalesce(x.ticket_id, r.ticket_received) END AS ticket_id,
               CASE WHEN EXISTS (SELECT FROM listener.message u WHERE u.id = r.id AND u.state = 'unknown')
                    THEN clock_timestamp() + make_interval(secs => %(ticket_wait)s::float8)
                    WHEN EXISTS (SELECT FROM listener.message u WHERE u.thread_id = x.id AND u.state = 'unknown')
                    THEN x.ticket_wait_until END AS wait_until
          FROM json_to_recordset(%(results)s::json) AS r(id bigint, thread_id bigint, lease bigint, state text,
                                                          ticket_received bigint, ticket_sent bigint, ticket_refused boolean)
          JOIN listener.thread x ON x.id = r.thread_id
          LEFT JOIN LATERAL listener.head(x.id) AS h ON true) AS k
 WHERE t.id = k.thread_id
RETURNING t.next_at IS NOT NULL AS more;

-- name: lock_expired
-- Threads with a waiting message that became too old to be of use; those that somebody works on come next time.
SELECT t.id FROM listener.thread t
 WHERE t.id = ANY(ARRAY(SELECT m.thread_id FROM listener.message m
                         WHERE m.state = 'waiting' AND m.expires_at <= statement_timestamp()
                         ORDER BY m.expires_at LIMIT 1000))
 ORDER BY t.id FOR UPDATE SKIP LOCKED;

-- name: requeue_threads
-- Locked threads go into the queue by their first waiting message, or out of it; a leased one when it is settled.
UPDATE listener.thread t
   SET next_at = CASE WHEN t.ticket_id IS NULL AND h.ticket_own IS NULL AND h.due_at IS NOT NULL
                      THEN greatest(h.due_at, t.ticket_wait_until) ELSE h.due_at END,
       priority = coalesce(h.priority, t.priority)
  FROM unnest(%(threads)s::bigint[]) AS w(id) LEFT JOIN LATERAL listener.head(w.id) AS h ON true
 WHERE t.id = w.id AND t.lease IS NULL;

-- name: spare
-- What came into the quiet hours before it was too old did not grow older in them, though nobody could work on it: those
-- of one day, until there are no more rows.
UPDATE listener.message
   SET due_at = greatest(due_at, quiet_until), order_at = greatest(order_at, quiet_until),
       expires_at = expires_at + (quiet_until - greatest(due_at, quiet_at)),
       quiet_at = quiet_at + interval '1 day', quiet_until = quiet_until + interval '1 day'
 WHERE thread_id = ANY(%(threads)s::bigint[]) AND state = 'waiting' AND expires_at <= clock_timestamp()
   AND quiet_at < expires_at AND quiet_until > due_at
RETURNING id;

-- name: expire
-- What waited in these threads past its `expires`.
WITH gone AS (
    DELETE FROM listener.message
     WHERE thread_id = ANY(%(threads)s::bigint[]) AND state = 'waiting' AND expires_at <= clock_timestamp() AND unsure = 0
    RETURNING *
)
INSERT INTO listener.finished (id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority,
                               phone, text, parts, encoding, state, reason, ticket_own, ticket_sent, ticket_id,
                               ticket_note, no_ticket, if_unsure, max_block, permits, attempts, unsure, save, recheck,
                               quiet_at, quiet_until, created_at, order_at, due_at, expires_at, settled_at, lease)
SELECT id, change_id, rule, rules_version, watch, key, account, thread_id, thread, priority, phone, text, parts, encoding,
       'expired', 'waited past its `expires`' || coalesce('; last: ' || reason, ''),
       ticket_own, ticket_sent, ticket_id, ticket_note, no_ticket, if_unsure, max_block, permits, attempts, unsure, save,
       recheck, quiet_at, quiet_until, created_at, order_at, due_at, expires_at, clock_timestamp(), lease
  FROM gone;

-- name: expire_unsure
-- One that was perhaps sent before is not expired but still unknown.
UPDATE listener.message SET state = 'unknown', reason = 'waited past its `expires`; an earlier request was not answered'
 WHERE thread_id = ANY(%(threads)s::bigint[]) AND state = 'waiting' AND expires_at <= clock_timestamp() AND unsure > 0;
