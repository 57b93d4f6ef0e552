-- The fleet: limits that hold whatever the number of replicas, pauses that last,
-- and turns. River's tables must be there already.

-- How many batches at a time each replica allows: {"seats": {"orders": 2}, "databases": 3}.
-- The smallest of the live replicas counts. And which tables it has, by their plain names.
ALTER TABLE worker ADD COLUMN limits jsonb NOT NULL DEFAULT '{"seats": {}, "databases": 1}';
ALTER TABLE worker ADD COLUMN tables text[] NOT NULL DEFAULT '{}';

-- What is paused, for good until somebody resumes it. Empty names stand for all:
-- ('', '', '') is everything, ('orders', '', '') a database. River forgets the pause
-- of a queue that no replica has worked for a day; this does not.
CREATE TABLE pause (
    database   text NOT NULL DEFAULT '',
    schema     text NOT NULL DEFAULT '',
    name       text NOT NULL DEFAULT '',
    lifted     boolean NOT NULL DEFAULT false,   -- a database that goes on while everything is paused
    since      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (database, schema, name),
    CHECK (database <> '' OR name = ''),
    CHECK ((schema = '') = (name = '')),
    CHECK (NOT lifted OR (database <> '' AND name = ''))
);

-- With empty names of a table: whether the whole database is paused.
CREATE FUNCTION is_paused(d text, s text, t text) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM pause p
    WHERE (p.database = d AND NOT p.lifted AND (p.name = '' OR (p.schema = s AND p.name = t)))
       OR (p.database = '' AND NOT EXISTS (SELECT FROM pause x WHERE x.database = d AND x.lifted))
);

-- How far the comparison of ledger and queue has got, and when it was last done: one
-- replica at a time goes on where another ended.
CREATE TABLE reconciled (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    batch     bigint      NOT NULL DEFAULT 0,
    job       bigint      NOT NULL DEFAULT 0,
    looked_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO reconciled DEFAULT VALUES;

-- When admission last looked at everything: one replica a second does, however many
-- there are.
CREATE TABLE admission (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    looked_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO admission DEFAULT VALUES;

-- Who had a seat when: databases take turns, and so do the tables of a database.
CREATE TABLE database_turn (
    database text PRIMARY KEY,
    began    timestamptz NOT NULL,               -- of the turn
    admitted timestamptz NOT NULL                -- the last batch
);
CREATE TABLE table_turn (
    table_id bigint PRIMARY KEY REFERENCES archive_table,
    admitted timestamptz NOT NULL
);

-- The next batches of a table, oldest rows first; and a walk over all open ones.
DROP INDEX batch_open;
CREATE INDEX batch_next ON batch (table_id, id) WHERE state IN ('planned', 'verified', 'deleting') AND NOT failed;
CREATE INDEX batch_open ON batch (id) WHERE state IN ('planned', 'verified', 'deleting');
CREATE INDEX batch_failed ON batch (id) WHERE failed;

-- Only admission makes a batch job available to workers. Whoever else would do so
-- (a retry in River UI, a snooze that ends, a rescue, an insert) leaves it pending,
-- and admission takes it up within a second. Without this, jobs that were promoted by
-- hand would all start at once, beyond every limit. The job of a batch that is finished
-- is finished too: nobody would ever take it up again. What waits longer than ten minutes
-- is looked at again in between.
CREATE FUNCTION leave_to_admission() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    finished boolean;
BEGIN
    IF coalesce(current_setting('archiver.admission', true), '') = 'on' THEN
        RETURN NEW;
    END IF;
    NEW.state := 'pending';
    -- By this clock: the planner's or a worker's may be an hour off.
    IF TG_OP = 'INSERT' THEN
        NEW.scheduled_at := now();
    ELSE
        NEW.scheduled_at := least(NEW.scheduled_at, now() + interval '10 minutes');
        EXECUTE format('SELECT state IN (''archived'', ''empty'', ''cancelled'') FROM %I.batch WHERE id = $1', TG_TABLE_SCHEMA)
            INTO finished USING (NEW.args->>'batch_id')::bigint;
        IF finished THEN
            NEW.state := 'completed';
            NEW.finalized_at := now();
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER leave_to_admission BEFORE INSERT OR UPDATE OF state ON river_job
    FOR EACH ROW WHEN (NEW.kind = 'archive_batch' AND NEW.state IN ('available', 'scheduled', 'retryable'))
    EXECUTE FUNCTION leave_to_admission();
UPDATE river_job SET state = 'pending' WHERE kind = 'archive_batch' AND state IN ('available', 'scheduled', 'retryable');
