-- $1 rows, evenly over the 730 days before now, each up to ten minutes early: rows
-- do not arrive in the order of their timestamps. OFFSET 0 keeps the random
-- numbers of a row from being drawn anew at each use.
INSERT INTO public.audit_logs (created_at, actor, action, entity, entity_id, changes, note, succeeded, duration_ms, ip, actor_id, request_id)
SELECT now() - interval '730 days' * (1 - i / $1::float8) - interval '10 minutes' * a,
       (ARRAY['zoë@example.com', 'jürgen@example.de', 'ops-on-call', '花子@example.jp', 'олена@example.ua', 'josé@example.es',
              'billing-service', 'şahin@example.com.tr', 'nightly-import', 'support-desk'])[1 + who % 10],
       action,
       split_part(action, '.', 1),
       1 + (b * c * 5e6)::bigint,
       jsonb_build_object(
           'before', jsonb_build_object('status', (ARRAY['new', 'paid', 'packed', 'shipped'])[1 + i % 4], 'total', round((b * 900)::numeric, 2)),
           'after', jsonb_build_object('status', (ARRAY['paid', 'packed', 'shipped', 'returned'])[1 + i % 4], 'total', round((c * 900)::numeric, 2)),
           'agent', (ARRAY['Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0', 'okhttp/4.12', 'curl/8.5.0'])[1 + (d * 2.99)::int % 3],
           'tags', jsonb_build_array('audit', 'v' || i % 3)),
       CASE WHEN d < 0.15 THEN
            (ARRAY['approved by phone ☎', 'übernommen – siehe Ticket ' || i, '確認済み', 'a "quoted" word and a back\slash',
                   E'two\nlines', ''])[1 + i % 6] END,
       d < 0.97,
       round((2 + 400 * a * a)::numeric, 3),
       CASE WHEN who % 10 NOT IN (6, 8) THEN
            CASE WHEN d < 0.8 THEN ('10.' || i % 7 || '.' || i % 251 || '.' || i % 241)::inet
                 ELSE ('2001:db8::' || to_hex(i % 65536))::inet END END,
       md5('actor ' || who)::uuid,
       md5('request ' || i)::uuid
FROM (SELECT i, (random() * 400)::int AS who, random() AS a, random() AS b, random() AS c, random() AS d,
             (ARRAY['order.updated', 'order.updated', 'order.refunded', 'customer.address_changed', 'price.changed', 'user.login',
                    'user.login', 'user.role_granted', 'invoice.sent', 'stock.corrected'])[1 + floor(random() * 10)::int] AS action
      FROM generate_series(1, $1::bigint) AS i OFFSET 0) AS drawn
