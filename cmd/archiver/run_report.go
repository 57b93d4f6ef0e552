package main

import (
	"time"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// runReport is the result of `archiver run`. It comes from the ledger, so it holds
// what other replicas did for the same tables meanwhile.
type runReport struct {
	Tables        []runTable `json:"tables"`
	Phases        phases     `json:"phases"`
	Seconds       float64    `json:"seconds"` // of the whole command, planning included
	RowsPerSecond float64    `json:"rows_per_second"`
}

type runTable struct {
	Database        string `json:"database"`
	Schema          string `json:"schema"`
	Table           string `json:"table"`
	RowsArchived    int64  `json:"rows_archived"`
	RowsLeft        int64  `json:"rows_left"` // in batches that are still open, or to be planned as the run goes on
	BatchesArchived int64  `json:"batches_archived"`
	BatchesFailed   int64  `json:"batches_failed"`
	BytesStored     int64  `json:"bytes_stored"`
	// Vacuum is that of the table's last run, if it was at work meanwhile.
	Vacuum *vacuumJSON `json:"vacuum"`
	name   string
}

// phases are seconds, summed over batches: with several at a time they come to
// more than has passed.
type phases struct {
	Query     float64 `json:"query"`
	Serialize float64 `json:"serialize"`
	Compress  float64 `json:"compress"`
	Upload    float64 `json:"upload"`
	Verify    float64 `json:"verify"`
	Delete    float64 `json:"delete"`
	Vacuum    float64 `json:"vacuum"`
}

func newRunReport(tables []config.Table, done map[ledger.TableName]ledger.Finished, left map[ledger.TableName]ledger.Left, vacuums map[ledger.TableName]ledger.Vacuum) *runReport {
	r := &runReport{Tables: []runTable{}}
	var sum ledger.Timings
	var vacuum float64
	for i, name := range tableNames(tables) {
		d, l := done[name], left[name]
		sum = sum.Add(d.Timings)
		r.Tables = append(r.Tables, runTable{
			Database: name.Database, Schema: name.Schema, Table: name.Name, name: tables[i].String(),
			RowsArchived: d.Rows, RowsLeft: l.Rows, BatchesArchived: d.Batches, BatchesFailed: l.Failed, BytesStored: d.Bytes,
		})
		if v, ok := vacuums[name]; ok {
			r.Tables[i].Vacuum = newVacuumJSON(v)
			if v.Result != nil {
				vacuum += v.Result.Seconds
			}
		}
	}
	r.Phases = phases{Query: sum.Query, Serialize: sum.Serialize, Compress: sum.Compress, Upload: sum.Upload, Verify: sum.Verify, Delete: sum.Delete, Vacuum: vacuum}
	return r
}

func (r *runReport) rows() int64 {
	var n int64
	for _, t := range r.Tables {
		n += t.RowsArchived
	}
	return n
}

// finish sets the times.
func (r *runReport) finish(took time.Duration) {
	r.Seconds = took.Seconds()
	if r.Seconds > 0 {
		r.RowsPerSecond = float64(r.rows()) / r.Seconds
	}
}
