-- The database of docker-compose.yml: an audit table with a history, and the
-- archiver's role with the privileges that it needs and no others.
\getenv password DB_PASSWORD
\set ON_ERROR_STOP on

CREATE TABLE audit_logs (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  created_at timestamptz NOT NULL DEFAULT now(),
  actor      text NOT NULL,
  action     text NOT NULL,
  payload    jsonb NOT NULL
);

INSERT INTO audit_logs (created_at, actor, action, payload)
SELECT now() - interval '2 years' * (1 - n / 200000.0),
       'user' || n % 97,
       (ARRAY['login', 'update', 'export', 'delete'])[1 + n % 4],
       jsonb_build_object('request', md5(n::text), 'status', 200 + n % 5, 'size', n % 4096)
FROM generate_series(1, 200000) AS n;

-- The archiver reads and deletes in this order.
CREATE INDEX audit_logs_created_at_id ON audit_logs (created_at, id);
ANALYZE audit_logs;

CREATE ROLE archiver LOGIN PASSWORD :'password';
-- Its ledger and River's queue live in a schema of its own in this database.
GRANT CREATE, CONNECT ON DATABASE app TO archiver;
-- VACUUM asks for MAINTAIN.
GRANT SELECT, DELETE, MAINTAIN ON audit_logs TO archiver;
