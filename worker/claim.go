package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/fleet"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// guard holds the fleet's limits and pauses against whatever made this job available
// besides admission.
func (w *Worker) guard(ctx context.Context, a *attempt) error {
	reason, err := fleet.Guard(ctx, w.Ledger, fleet.Claim{JobID: a.job.ID, BatchID: a.job.Args.BatchID, Database: a.job.Args.Database, At: a.job.AttemptedAt})
	if err != nil {
		return err
	}
	if reason != "" {
		return &waitError{kind: WaitLimit, reason: reason, after: time.Second}
	}
	return nil
}

// claim starts a new attempt in the ledger, which fences all older ones, and
// checks that the configuration of today still wants the batch archived: what was
// planned last week may not be what the operator wants now.
func (w *Worker) claim(ctx context.Context, a *attempt) error {
	b, err := w.Ledger.Claim(ctx, a.job.Args.BatchID)
	if err != nil {
		return err
	}
	a.batch = b
	a.log = withJobLog(ctx, w.Log.With(zap.String("database", b.Database), zap.String("table", b.Schema+"."+b.Table),
		zap.Int64("batch_id", b.ID), zap.Int64("job_id", a.job.ID), zap.Int("attempt", b.Attempt)))
	if b.State.Final() {
		a.late = true
		return nil
	}
	var ok bool
	if a.table, a.db, ok = w.configured(b); !ok {
		elsewhere, err := fleet.SomebodyHas(ctx, w.Ledger, b.Database, b.Schema, b.Table)
		if err != nil {
			return err
		}
		if elsewhere {
			return &waitError{reason: "this replica's configuration does not have the table, another's does", after: 15 * time.Second}
		}
		return w.notCovered(ctx, a, "the table is no longer in the configuration")
	}
	if b.State == ledger.Deleting {
		return nil // first find out what happened; resolve asks covered after that
	}
	return w.covered(ctx, a)
}

// covered cancels the batch unless today's configuration wants its rows archived
// and deleted. Nothing is deleted that did not pass here in the same attempt.
func (w *Worker) covered(ctx context.Context, a *attempt) error {
	to := a.batch.Range.To[0]
	// Nearly always the definition is the one of the batch before.
	described, past, err := a.db.Standing(ctx, a.table, to, func(fingerprint string) *source.Table {
		if t := w.lookedAt(a.table, fingerprint); t != nil && t.SameKey(a.batch.KeyColumns) == nil {
			return t
		}
		return nil
	})
	if err != nil {
		return err
	}
	if described == nil {
		if described, err = w.preflight(ctx, a); err != nil {
			return err
		}
		if err := described.SameKey(a.batch.KeyColumns); err != nil {
			return w.notCovered(ctx, a, err.Error())
		}
		if past, err = a.db.PastRetention(ctx, described, to); err != nil {
			return err
		}
	}
	if !past {
		return w.notCovered(ctx, a, fmt.Sprintf("its rows are within the retention that is configured now (%s)", a.table.Retention))
	}
	return nil
}

// notCovered cancels a batch that the configuration does not cover any more. One
// whose delete was begun cannot be let go: its outcome must be found out first.
func (w *Worker) notCovered(ctx context.Context, a *attempt, reason string) error {
	if a.batch.State == ledger.Deleting {
		return &permanentError{
			err:  fmt.Errorf("%s, but its delete was begun and the outcome is not known", reason),
			hint: "put the table back into the configuration, then: archiver jobs retry " + fmt.Sprint(a.job.ID),
		}
	}
	reason = "cancelled: " + reason
	err := w.Ledger.InTx(ctx, func(tx pgx.Tx) error {
		if err := w.Ledger.CancelAttempt(ctx, tx, a.batch, reason); err != nil {
			return err
		}
		return w.completeJob(ctx, tx, a)
	})
	if err != nil {
		return err
	}
	a.batch.State = ledger.Cancelled
	a.log.Warn("batch cancelled", zap.String("reason", reason))
	return nil
}

// preflight runs the findings again whenever the table's catalog entries are not
// the ones that this process has already looked at.
func (w *Worker) preflight(ctx context.Context, a *attempt) (*source.Table, error) {
	table, err := a.db.Describe(ctx, a.table)
	if err != nil {
		return nil, err
	}
	if w.lookedAt(a.table, table.Fingerprint) != nil {
		return table, nil
	}
	// The findings are about the definition of their own snapshot, which need not be
	// the one above any more.
	table, findings, err := a.db.Preflight(ctx, a.table)
	if err != nil {
		return nil, err
	}
	if refusals := source.Refusals(findings); len(refusals) > 0 {
		return nil, &source.RefusedError{Table: a.table.String(), Findings: refusals}
	}
	w.preflighted.Store(lookedAtKey(a.table, table.Fingerprint), table)
	return table, nil
}

// lookedAt returns the table if this process has looked for findings in exactly this
// definition of it, and nothing refuses it; else nil.
func (w *Worker) lookedAt(c config.Table, fingerprint string) *source.Table {
	table, ok := w.preflighted.Load(lookedAtKey(c, fingerprint))
	if !ok {
		return nil
	}
	return table.(*source.Table) //nolint:forcetypeassert // nothing else is stored there
}

func lookedAtKey(c config.Table, fingerprint string) string { return c.String() + " " + fingerprint }
