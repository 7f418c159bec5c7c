-- The sample ERP: a shop that keeps balances and orders for its customers. Everybody in it is made up.
--
-- It is loaded by the owner of the database, in one transaction, and gives the same rows every time: identities count
-- up from 1 in the order of the lines (customer 7 is Đặng Thị Ướt), dates are fixed. Phones are written as people and
-- old imports leave them; some of them cannot receive an SMS, as in life.

CREATE TABLE public.customers (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name text NOT NULL,
    phone     text,
    birthday  date
);

CREATE TABLE public.accounts (
    account_no  text PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES public.customers,
    balance     numeric(18, 2) NOT NULL DEFAULT 0,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.orders (
    order_no    text PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES public.customers,
    status      text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'confirmed', 'shipped', 'delivered', 'cancelled')),
    total       numeric(18, 2) NOT NULL,
    ticket_id   bigint,
    payment_due date,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX ON public.accounts (customer_id);
CREATE INDEX ON public.orders (customer_id);

INSERT INTO public.customers (full_name, phone, birthday) VALUES
    ('Nguyễn Văn Ửng',        '0912 345 678',      '1984-02-29'),
    ('Trần Thị Bích Ngọc',    '+84 98 000 0002',   '1990-11-22'),
    ('Lê Quốc Khánh',         '0903.000.003',      '1978-09-02'),
    ('Phạm Thuỳ Dương',       '84350000004',       '1995-06-15'),
    ('Hoàng Đức Thịnh',       '(070) 000-0005',    NULL),
    ('Huỳnh Mỹ Hạnh',         '0168 234 5678',     '1969-12-31'),  -- 11 digits: not touched since 2018
    ('Đặng Thị Ướt',          '0980000000',        '1988-03-08'),
    ('Vũ Hữu Nghĩa',          '0084 81 000 0008',  '2001-01-01'),
    ('Bùi Thị Kiều Oanh',     '024 3825 1234',     '1973-07-27'),  -- a landline
    ('Đỗ Ngọc Quỳnh Như',     NULL,                '1999-10-20'),
    ('Dương Gia Kiệt',        '+84 (0)86 000 0011', NULL),
    ('Lý Thị Xuân Yến',       ' 0560-000-012 ',    '1982-05-19');

INSERT INTO public.accounts (account_no, customer_id, balance, updated_at) VALUES
    ('A1',    7,    150000.00, '2026-01-05 08:00:00+07'),
    ('A2',    7,  24500000.00, '2026-01-05 08:05:00+07'),
    ('A3',    1,    120000.00, '2026-01-05 08:10:00+07'),
    ('A4',    1,   8750000.00, '2026-01-05 08:15:00+07'),
    ('A5',    2,    310000.50, '2026-01-05 08:20:00+07'),
    ('A6',    2,         0.00, '2026-01-05 08:25:00+07'),
    ('A7',    3,   1999999.99, '2026-01-05 08:30:00+07'),
    ('A8',    3,    105000.00, '2026-01-05 08:35:00+07'),
    ('A9',    4,    640000.00, '2026-01-05 08:40:00+07'),
    ('A10',   5,  99500000.00, '2026-01-05 08:45:00+07'),
    ('A11',   5,     85000.00, '2026-01-05 08:50:00+07'),
    ('A12',   6,    130000.00, '2026-01-05 08:55:00+07'),
    ('A13',   6,   2200000.00, '2026-01-05 09:00:00+07'),
    ('A14',   8,    455000.00, '2026-01-05 09:05:00+07'),
    ('A15',   8,    100000.00, '2026-01-05 09:10:00+07'),
    ('A16',   9,    115000.00, '2026-01-05 09:15:00+07'),
    ('A17',  10,    160000.00, '2026-01-05 09:20:00+07'),
    ('A18',  11,   3300000.00, '2026-01-05 09:25:00+07'),
    ('A19',  12,    101000.00, '2026-01-05 09:30:00+07'),
    ('A20',  12, 1250000000.00, '2026-01-05 09:35:00+07');

INSERT INTO public.orders (order_no, customer_id, status, total, ticket_id, payment_due, updated_at) VALUES
    ('DH1001',  7, 'new',         450000.00, NULL,    '2026-01-12', '2026-01-05 10:00:00+07'),
    ('DH1002',  1, 'new',        1290000.00, 9410022, '2026-01-12', '2026-01-05 10:05:00+07'),
    ('DH1003',  2, 'new',          89000.00, NULL,    NULL,         '2026-01-05 10:10:00+07'),
    ('DH1004',  3, 'new',       15600000.00, NULL,    '2026-01-20', '2026-01-05 10:15:00+07'),
    ('DH1005',  4, 'new',         720000.00, NULL,    '2026-01-13', '2026-01-05 10:20:00+07'),
    ('DH1006',  5, 'confirmed',  2350000.00, NULL,    '2026-01-13', '2026-01-05 10:25:00+07'),
    ('DH1007',  6, 'confirmed',   199000.00, NULL,    NULL,         '2026-01-05 10:30:00+07'),
    ('DH1008',  7, 'confirmed',  5400000.00, NULL,    '2026-01-15', '2026-01-05 10:35:00+07'),
    ('DH1009',  8, 'confirmed',   330000.00, NULL,    NULL,         '2026-01-05 10:40:00+07'),
    ('DH1010',  9, 'confirmed',   610000.00, NULL,    '2026-01-16', '2026-01-05 10:45:00+07'),
    ('DH1011', 10, 'confirmed',  1180000.00, NULL,    '2026-01-16', '2026-01-05 10:50:00+07'),
    ('DH1012', 11, 'shipped',     275000.00, NULL,    NULL,         '2026-01-05 10:55:00+07'),
    ('DH1013', 12, 'shipped',    4890000.00, NULL,    '2026-01-10', '2026-01-05 11:00:00+07'),
    ('DH1014',  1, 'shipped',     940000.00, NULL,    '2026-01-11', '2026-01-05 11:05:00+07'),
    ('DH1015',  2, 'shipped',      58500.50, NULL,    NULL,         '2026-01-05 11:10:00+07'),
    ('DH1016',  3, 'shipped',    7700000.00, NULL,    '2026-01-09', '2026-01-05 11:15:00+07'),
    ('DH1017',  4, 'delivered',   365000.00, NULL,    '2026-01-08', '2026-01-05 11:20:00+07'),
    ('DH1018',  8, 'delivered',  2020000.00, NULL,    NULL,         '2026-01-05 11:25:00+07'),
    ('DH1019',  5, 'cancelled',   150000.00, NULL,    NULL,         '2026-01-05 11:30:00+07'),
    ('DH1020', 12, 'cancelled', 31000000.00, NULL,    '2026-01-31', '2026-01-05 11:35:00+07');
