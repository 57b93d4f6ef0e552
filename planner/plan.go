package planner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// Plan is what would be archived of one table.
type Plan struct {
	Table     config.Table
	Findings  []source.Finding
	Cutoff    source.Cutoff
	BatchSize int           // rows
	Pages     []source.Page // to be enqueued
	Rows      int64         // of all batches
	Batches   int           // Pages, and those of further windows as they would be cut now
	Later     int64         // rows of further windows, which are planned as the run goes on
	Bytes     int64         // estimated heap bytes of these rows
	TableSize source.Size
	Open      ledger.Table // what the ledger already holds for the table
	ReadFrom  string       // the server that was walked last: source.Primary or source.ReadReplica
	// PassedOver is why the replica was not walked, or not to the end; nil if it was, and
	// if there is none.
	PassedOver *source.ReplicaError
	// Set by Enqueue.
	RunID    int64
	Enqueued int

	concurrency int // of the table's database
	keyColumns  []string
	walkedTo    []string // the end of the last page that was seen
	tableID     int64
	firstBatch  int64 // of those that were enqueued
}

// Refused returns the findings that keep the table from being planned.
func (p *Plan) Refused() []source.Finding { return source.Refusals(p.Findings) }

// Options narrow a plan.
type Options struct {
	Cutoff *time.Time // an earlier cutoff than the retention's own
	// Siblings are all configured tables of the database; none may be a partition
	// of another.
	Siblings []config.Table
	// Concurrency is how many batches of the database are worked on at a time.
	Concurrency int
}

// LateCutoffError says that --cutoff lies behind the retention's own cutoff.
type LateCutoffError struct {
	Table      string
	Asked, Own time.Time
}

func (e *LateCutoffError) Error() string {
	return fmt.Sprintf("--cutoff %s is later than the retention of %s allows (%s)", e.Asked.UTC().Format(time.RFC3339), e.Table, e.Own.UTC().Format(time.RFC3339))
}

// Hint says what can be done.
func (e *LateCutoffError) Hint() string {
	return "give an earlier --cutoff, or shorten the table's retention in the configuration"
}

// Make reads what can be archived of a table now and changes nothing. A refused
// table is a Plan without pages whose Refused says why; an error is trouble with
// a server.
func Make(ctx context.Context, db *source.DB, l *ledger.Ledger, c config.Table, o Options) (*Plan, error) {
	table, findings, err := db.Preflight(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &Plan{Table: c, Findings: findings, concurrency: o.Concurrency}
	overlaps, err := db.Overlaps(ctx, o.Siblings)
	if err != nil {
		return nil, err
	}
	for i, t := range o.Siblings {
		if t.Schema == c.Schema && t.Name == c.Name {
			p.Findings = append(p.Findings, overlaps[i]...)
		}
	}
	if p.Open, err = l.FindTable(ctx, c.Database, c.Schema, c.Name); err != nil {
		return nil, err
	}
	if table == nil {
		return p, nil
	}
	p.keyColumns = table.KeyColumns()
	if p.Open.OpenBatches > 0 && !slices.Equal(p.Open.OpenKeyColumns, p.keyColumns) {
		p.Findings = append(p.Findings, source.Finding{
			Code: "open_batches_other_key", Severity: source.Refuse,
			Message: fmt.Sprintf("%d open batches were planned on the key (%s), and the key is (%s) now", p.Open.OpenBatches, strings.Join(p.Open.OpenKeyColumns, ", "), strings.Join(p.keyColumns, ", ")),
			Hint:    "let the workers finish or cancel them, then plan again",
		})
	}
	if len(p.Refused()) > 0 {
		return p, nil
	}
	if p.Cutoff, err = cutoff(ctx, db, table, o); err != nil {
		return nil, err
	}
	p.BatchSize = firstSize(c, p.Open.Pace)
	if p.Open.UnplannedRun != 0 {
		// Its own windows come first; what is beyond its cutoff is the next plan's.
		p.TableSize, err = db.Size(ctx, table)
		return p, err
	}
	if err := p.walk(ctx, db, table); err != nil {
		return nil, err
	}
	if p.TableSize.Rows > 0 {
		p.Bytes = int64(float64(p.TableSize.HeapBytes) / p.TableSize.Rows * float64(p.Rows))
	}
	return p, nil
}

func cutoff(ctx context.Context, db *source.DB, table *source.Table, o Options) (source.Cutoff, error) {
	own, err := db.Cutoff(ctx, table, nil)
	if err != nil || o.Cutoff == nil {
		return own, err
	}
	if o.Cutoff.After(own.At) {
		return own, &LateCutoffError{Table: table.Config.String(), Asked: *o.Cutoff, Own: own.At}
	}
	return db.Cutoff(ctx, table, o.Cutoff)
}

// IsMeanwhile says that another planner was at work on the same table.
func IsMeanwhile(err error) bool { return errors.Is(err, ledger.ErrPlannedMeanwhile) }
