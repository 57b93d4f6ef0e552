-- Which due times of a table's schedule are settled. What the schedule is stands in
-- the configuration only; `spec` is here to see that it was changed.
CREATE TABLE schedule (
    database      text NOT NULL,
    schema        text NOT NULL,
    name          text NOT NULL,
    spec          text NOT NULL,
    -- When a replica last had this spec. Only one that nobody has any more gives way
    -- to another: replicas that disagree would else start it afresh for ever.
    seen_at       timestamptz NOT NULL DEFAULT now(),
    -- Due times up to here are planned, or older than the spec. Moved in the
    -- transaction that writes the last page of a plan, and by nothing else.
    settled_to    timestamptz NOT NULL DEFAULT now(),
    -- One planner at a time: a number that fences older ones, and how long it holds.
    claim         bigint NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    retry_at      timestamptz,                   -- not before, after a plan that failed
    planned_at    timestamptz,
    run_id        bigint REFERENCES run,         -- of the last plan that found something
    last_error    text,                          -- since the last plan
    last_hint     text,
    PRIMARY KEY (database, schema, name)
);
