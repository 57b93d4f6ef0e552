-- What becomes of a run: its vacuum, once the last of its batches has ended, and the
-- windows in which a long one is planned.

-- null: the run has batches that are not finished, or windows that are not planned.
-- Set once by a compare-and-set, in the transaction that ends the last batch, so that
-- a run has one vacuum in the whole fleet. none: nothing to do, or switched off.
ALTER TABLE run
    ADD COLUMN vacuum        text CHECK (vacuum IN ('none', 'queued', 'running', 'done', 'skipped', 'failed')),
    ADD COLUMN vacuum_job_id bigint,             -- River's; kept when River prunes the job
    ADD COLUMN vacuum_note   text,               -- how far it is, what it waits for, why it was skipped or failed
    ADD COLUMN vacuum_hint   text,
    ADD COLUMN vacuum_result jsonb,              -- mode, seconds, sizes and dead rows before and after
    ADD COLUMN vacuum_at     timestamptz;        -- of the last change

-- The open batches of a run: is it the last one that ends here?
CREATE INDEX batch_of_run ON batch (run_id, id) WHERE state IN ('planned', 'verified', 'deleting');
-- Runs that ended before there was a vacuum get none.
UPDATE run r SET vacuum = 'none'
    WHERE NOT EXISTS (SELECT FROM batch b WHERE b.run_id = r.id AND b.state IN ('planned', 'verified', 'deleting'));
CREATE INDEX run_unfinished ON run (id) WHERE vacuum IS NULL OR vacuum IN ('queued', 'running');
CREATE INDEX run_vacuumed ON run (table_id, id) WHERE vacuum <> 'none';

-- A long run of a table whose batch size adapts is planned in windows, the next one
-- when few batches of the last are left.
ALTER TABLE run
    ADD COLUMN more          boolean NOT NULL DEFAULT false, -- there are windows left to plan
    ADD COLUMN rows_left     bigint  NOT NULL DEFAULT 0,     -- about so many rows are in them
    ADD COLUMN window_from   bigint,                         -- the first batch of the last window
    ADD COLUMN claimed_until timestamptz,                    -- somebody plans the next one, or it is not to be tried before
    ADD COLUMN window_error  text,                           -- why it was not planned
    ADD COLUMN window_hint   text;
CREATE INDEX run_more ON run (table_id) WHERE more;

ALTER TABLE archive_table
    ADD COLUMN batch_size         integer,                   -- that queries have brought about; null: as configured
    ADD COLUMN batch_size_from    integer,                   -- the configured one that it started from
    -- Sums over finished batches in which each counts less the older it is: what a row costs.
    ADD COLUMN query_rows         double precision NOT NULL DEFAULT 0,
    ADD COLUMN query_seconds      double precision NOT NULL DEFAULT 0,
    ADD COLUMN last_query_seconds double precision;
