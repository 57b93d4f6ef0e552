package fault

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// ceiling is the most memory that a worker may take, however many rows a batch has. It takes
// some 40 MB, and where rows are of 4 MB some 100.
const ceiling = 150 << 20

// TestWorkerMemory has the program archive batches that are several times as large as what
// it may hold: one of many rows, and one of few that are very wide.
func TestWorkerMemory(t *testing.T) {
	t.Parallel()
	program := testkit.Build(t, "./cmd/archiver")
	for _, c := range []struct {
		name    string
		rows    int64
		payload string // SQL
		least   int64  // bytes of the batch
	}{
		{"many rows", 300_000, `repeat(md5(i::text), 12)`, 120 << 20},
		{"wide rows", 400, `repeat(md5(i::text), CASE WHEN i % 10 = 0 THEN 131072 ELSE 10 END)`, 160 << 20}, // 4 MB
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, ", batch_size: 500000, adaptive_batch: {enabled: false}, max_batch_bytes: 1GiB, vacuum_mode: none", "audit_logs")
			s.source.Exec(t, `CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, payload text)`)
			s.source.Exec(t, `INSERT INTO audit_logs SELECT i, date_trunc('month', now() AT TIME ZONE 'UTC' - interval '4 months') AT TIME ZONE 'UTC' + i * interval '1 second', `+
				c.payload+` FROM generate_series(1, $1::bigint) i`, c.rows)
			s.source.Exec(t, `CREATE INDEX ON audit_logs (created_at, id)`)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var out bytes.Buffer
			cmd := exec.CommandContext(ctx, program, "run")
			cmd.Env = []string{"ARCHIVER_CONFIG=" + s.cfg.Path, "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
			cmd.Stdout, cmd.Stderr = &out, &out
			memory := s.watched(ctx, cmd)
			require.Zero(t, cmd.ProcessState.ExitCode(), out.String())
			require.EqualValues(t, 1, s.count("audit_logs", `b.state = 'archived'`), "one batch")
			require.Equal(t, c.rows, s.control.Int(t, s.ledger.SQL(`SELECT sum(rows)::bigint FROM {s}.object`)))
			require.Greater(t, s.control.Int(t, s.ledger.SQL(`SELECT sum(raw_bytes)::bigint FROM {s}.object`)), c.least)
			t.Log(memory>>20, "MB")
			require.Less(t, memory, int64(ceiling))
		})
	}
}
