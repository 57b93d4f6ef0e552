CREATE TABLE public.audit_logs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at  timestamptz NOT NULL,
    actor       text        NOT NULL,
    action      text        NOT NULL,
    entity      text        NOT NULL,
    entity_id   bigint      NOT NULL,
    changes     jsonb       NOT NULL,
    note        text,
    succeeded   boolean     NOT NULL,
    duration_ms numeric(10, 3),
    ip          inet,
    actor_id    uuid        NOT NULL,
    request_id  uuid        NOT NULL
);
