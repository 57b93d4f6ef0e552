package fleet

import (
	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/jobs"
)

// WindowTables are the tables of a configuration, with the number of open batches below
// which the next window of a run of them is due.
func WindowTables(c *config.Config) []ledger.WindowTable {
	var out []ledger.WindowTable
	for _, d := range c.Databases {
		for _, t := range d.Tables {
			out = append(out, ledger.WindowTable{TableName: ledger.TableName{Database: t.Database, Schema: t.Schema, Name: t.Name}, Low: jobs.Window(d.Concurrency)})
		}
	}
	return out
}
