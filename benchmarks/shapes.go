package main

import "fmt"

// shape is a kind of audit table. Every row of it is old enough to be archived.
type shape struct {
	name  string
	bytes int    // of a row in its binary form, about
	sql   string // creates audit_logs and fills it with %d rows
}

func shapes() []shape {
	return []shape{
		{"audit", 450, auditSQL},
		{"narrow", 200, narrowSQL},
		{"wide", 4000, wideSQL},
	}
}

func shapeNamed(name string) (shape, error) {
	for _, s := range shapes() {
		if s.name == name {
			return s, nil
		}
	}
	return shape{}, fmt.Errorf("no shape %q: audit, narrow or wide", name)
}

// auditSQL makes what most audit tables look like: about 450 bytes a row, with a small
// document.
const auditSQL = `
CREATE TABLE audit_logs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at timestamptz NOT NULL,
	actor_id uuid NOT NULL, actor text, action varchar(40) NOT NULL, entity text NOT NULL, entity_id bigint,
	ip inet, amount numeric(14,2), success boolean NOT NULL, user_agent text, payload jsonb NOT NULL
);
INSERT INTO audit_logs (created_at, actor_id, actor, action, entity, entity_id, ip, amount, success, user_agent, payload)
SELECT timestamptz '2023-01-01 00:00:00+00' + i * interval '3 seconds', md5((i %% 5000)::text)::uuid, 'user' || i %% 5000 || '@example.com',
       (ARRAY['login','logout','order.created','order.updated','invoice.paid','password.changed'])[1 + i %% 6], 'order', i * 7 %% 900000,
       ('10.' || i %% 200 || '.' || i %% 251 || '.' || i %% 254)::inet, (i * 37 %% 10000000)::numeric / 100, i %% 17 <> 0,
       'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/' || 90 + i %% 30 || '.0',
       jsonb_build_object('request_id', md5(i::text), 'before', jsonb_build_object('state', 'pending', 'total', i %% 977), 'after', jsonb_build_object('state', 'paid', 'total', i %% 977 + 1), 'note', left(md5((i * 31)::text), 8 + (i %% 24)::int))
FROM generate_series(1::bigint, %d) i;
CREATE INDEX ON audit_logs (created_at, id);`

// narrowSQL makes rows of about 200 bytes: what is done to each row counts most.
const narrowSQL = `
CREATE TABLE audit_logs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at timestamptz NOT NULL,
	actor_id bigint NOT NULL, action varchar(40) NOT NULL, entity text NOT NULL, entity_id bigint, success boolean NOT NULL, detail text
);
INSERT INTO audit_logs (created_at, actor_id, action, entity, entity_id, success, detail)
SELECT timestamptz '2023-01-01 00:00:00+00' + i * interval '3 seconds', i %% 5000, (ARRAY['login','logout','order.created','order.updated'])[1 + i %% 4],
       'order', i * 7 %% 900000, i %% 17 <> 0, 'by ' || md5(i::text) || ' from 10.' || i %% 200 || '.' || i %% 251 || '.' || i %% 254
FROM generate_series(1::bigint, %d) i;
CREATE INDEX ON audit_logs (created_at, id);`

// wideSQL makes rows of about 4 KB, nearly all of it a large document that is compressed
// and out of line.
const wideSQL = `
CREATE TABLE audit_logs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at timestamptz NOT NULL,
	actor_id uuid NOT NULL, action varchar(40) NOT NULL, document jsonb NOT NULL
);
INSERT INTO audit_logs (created_at, actor_id, action, document)
SELECT timestamptz '2023-01-01 00:00:00+00' + i * interval '3 seconds', md5((i %% 5000)::text)::uuid, (ARRAY['created','updated','deleted'])[1 + i %% 3],
       jsonb_build_object('id', i, 'lines', (SELECT jsonb_agg(jsonb_build_object('position', n, 'sku', md5((i * n)::text), 'name', 'article number ' || (i * n) %% 9973,
              'quantity', n %% 7, 'price', ((i * n) %% 99991)::numeric / 100, 'checksum', md5((i + n)::text))) FROM generate_series(1, 24) n))
FROM generate_series(1::bigint, %d) i;
CREATE INDEX ON audit_logs (created_at, id);`
