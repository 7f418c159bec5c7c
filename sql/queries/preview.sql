-- name: remembered_ticket
SELECT ticket_id FROM listener.thread WHERE account = %(account)s AND name = %(thread)s;
