package main

import (
	"context"
	"time"

	"github.com/audit-table-archiver/archiver/internal/source"
)

// planJSON is one table of `plan --json`. What is not known, because the table was
// refused or could not be looked at, is null.
type planJSON struct {
	Database     string            `json:"database"`
	Schema       string            `json:"schema"`
	Table        string            `json:"table"`
	RunID        *int64            `json:"run_id"` // null unless something was enqueued
	Cutoff       *time.Time        `json:"cutoff"`
	EligibleRows *int64            `json:"eligible_rows"`
	Batches      int               `json:"batches"`
	BatchSize    int               `json:"batch_size"`
	Enqueued     int               `json:"enqueued"`       // batches
	RowsLater    int64             `json:"rows_later"`     // of the eligible ones: enqueued in windows as the run goes on
	OpenRunRows  int64             `json:"rows_unplanned"` // of an earlier run, about, that is not planned to its end
	Bytes        *int64            `json:"estimated_bytes"`
	OldestRow    *string           `json:"oldest_row"`
	OpenBatches  *int64            `json:"open_batches"` // from earlier plans
	Findings     []planFindingJSON `json:"findings"`
}

type planFindingJSON struct {
	Code     string          `json:"code"`
	Severity source.Severity `json:"severity"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint"`
}

type plansJSON struct {
	Plans []planJSON `json:"plans"`
}

func planReport(ctx context.Context, results []planned) plansJSON {
	out := plansJSON{Plans: []planJSON{}}
	for _, r := range results {
		j := planJSON{Database: r.table.Database, Schema: r.table.Schema, Table: r.table.Name, BatchSize: r.table.BatchSize, Findings: []planFindingJSON{}}
		if p := r.plan; p != nil {
			for _, f := range p.Findings {
				j.Findings = append(j.Findings, planFindingJSON(f))
			}
			j.OpenBatches = &p.Open.OpenBatches
			if !r.refused() {
				j.Cutoff, j.EligibleRows, j.OldestRow = new(p.Cutoff.At.UTC()), &p.Rows, p.TableSize.Oldest
				if p.Bytes > 0 || p.Rows == 0 { // without an ANALYZE there is no estimate
					j.Bytes = &p.Bytes
				}
				j.Batches, j.Enqueued, j.RowsLater, j.OpenRunRows = p.Batches, p.Enqueued, p.Later, p.Open.UnplannedRows
				j.BatchSize = p.BatchSize
			}
			if p.RunID != 0 {
				j.RunID = &p.RunID
			}
		}
		if r.err != nil {
			code := "plan_failed"
			if exitCode(ctx, r.err) == exitUnreachable {
				code = "source_unreachable"
			}
			j.Findings = append(j.Findings, planFindingJSON{Code: code, Severity: source.Refuse, Message: flat(r.err), Hint: hintOf(r.err)})
		}
		out.Plans = append(out.Plans, j)
	}
	return out
}
