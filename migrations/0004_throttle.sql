-- Throttle: what a table is held for, how fast it may go, and which replicas take
-- nothing because storage is away.

CREATE TABLE table_throttle (
    table_id    bigint PRIMARY KEY REFERENCES archive_table,
    -- No batch of the table is admitted before. Short, and renewed by the batch that
    -- finds the reason still there: a configuration that changed must not be outlived.
    held_until  timestamptz NOT NULL DEFAULT '-infinity',
    held_for    text        NOT NULL DEFAULT '',
    -- max_rows_per_second in the whole fleet: rows that may be begun now. It grows with
    -- time; while it is negative nobody begins. Rows and not a time, so that a limit
    -- that is changed counts at once.
    credit      double precision NOT NULL DEFAULT 0,
    credited_at timestamptz NOT NULL DEFAULT now()
);

-- Set while this replica takes no batches; while that is so for all, none is admitted.
ALTER TABLE worker ADD COLUMN held_for text;
