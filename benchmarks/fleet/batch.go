package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
)

// sleeper works a batch as package worker does, as far as the control database can tell:
// the guard, the claim, each state in the ledger, the end of ledger and job in one
// transaction. Instead of rows and objects there is a sleep.
type sleeper struct {
	river.WorkerDefaults[jobs.BatchArgs]
	ledger *ledger.Ledger
	stage  time.Duration
	hands  *hands
	count  *counts
	freed  chan string
}

// Timeout implements river.Worker.
func (s *sleeper) Timeout(*river.Job[jobs.BatchArgs]) time.Duration { return time.Minute }

// Work implements river.Worker.
func (s *sleeper) Work(ctx context.Context, job *river.Job[jobs.BatchArgs]) error {
	defer func() {
		select {
		case s.freed <- job.Args.Database:
		default: // is to be looked at already
		}
	}()
	defer s.hands.take(-1)
	reason, err := fleet.Guard(ctx, s.ledger, fleet.Claim{JobID: job.ID, BatchID: job.Args.BatchID, Database: job.Args.Database, At: job.AttemptedAt})
	if err != nil {
		return err
	}
	s.count.ran(reason != "")
	if reason != "" {
		return river.JobSnooze(time.Second)
	}
	b, err := s.ledger.Claim(ctx, job.Args.BatchID)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return river.JobSnooze(0)
	case <-time.After(s.stage):
	}
	if err := s.archive(ctx, job, b); err != nil {
		return err
	}
	s.count.done()
	return nil
}

func (s *sleeper) archive(ctx context.Context, job *river.Job[jobs.BatchArgs], b *ledger.Batch) error {
	if b.State == ledger.Planned {
		key := fmt.Sprintf("bench/%s/%s/%s/%s/2020-01-01T000000Z_%d_0123456789abcdef", b.Database, b.Schema, b.Table, b.Partition, b.ID)
		err := s.ledger.RecordVerified(ctx, b, ledger.Object{
			Key: key + ".jsonl.gz", ManifestKey: key + ".manifest.json", Manifest: manifest, Rows: b.RowsPlanned, RawBytes: b.RowsPlanned * 450, StoredBytes: b.RowsPlanned * 100,
			ReadFrom: "primary", Fingerprint: "0123456789abcdef", SystemID: "7000000000000000000", Timeline: "00000001", Compression: "gzip",
		})
		if err != nil {
			return err
		}
	}
	if b.State == ledger.Verified {
		if err := s.ledger.StartDelete(ctx, b); err != nil {
			return err
		}
	}
	if b.State.Final() {
		return nil
	}
	timings := ledger.Timings{Query: s.stage.Seconds(), Total: s.stage.Seconds()}
	err := s.ledger.InTx(ctx, func(tx pgx.Tx) error {
		if err := s.ledger.Archived(ctx, tx, b, "0/1000", timings); err != nil {
			return err
		}
		var mine bool
		err := tx.QueryRow(ctx, s.ledger.SQL(`
			SELECT count(*) = 1 FROM (SELECT 1 FROM {s}.river_job WHERE id = $1 AND state = 'running' AND attempted_at = $2 FOR UPDATE) s`),
			job.ID, job.AttemptedAt).Scan(&mine)
		if err != nil || !mine {
			return err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
	if err != nil {
		return err
	}
	return river.RecordOutput(ctx, map[string]any{"stage": "archived", "rows": b.RowsPlanned, "bytes": b.Object.StoredBytes, "object_key": b.Object.Key, "seconds": timings})
}

// manifest is about as long as that of a table of twelve columns.
var manifest = fmt.Sprintf("%2000s", "{}")
