//go:build failpoint

package chaos

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
)

// TestChaos: while replicas die, freeze and come back, the control database crashes, and
// an operator pauses, retries and deletes, no limit is exceeded at any look, the seats
// are used, and every row ends in exactly one place.
func TestChaos(t *testing.T) {
	t.Parallel()
	length, seed := duration(t), seed(t)
	began := time.Now()
	// More than the fleet can do in the time, so that seats are wanted to the end.
	perSecond := float64(places*seats) / 0.7
	s := newSite(t, int(perSecond*length.Seconds())/(len(databases)*len(tables))+20)
	planned := s.control.Int(t, `SELECT count(*) FROM archiver.batch`)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fleetCtx, stopFleet := context.WithCancel(t.Context())
	defer stopFleet()
	h := start(fleetCtx, s)
	h.wreak(ctx, seed)
	w := &watch{s: s}
	end := time.Now().Add(length)
	nextCrash := time.Now().Add(length / 4)
	for time.Now().Before(end) {
		if time.Now().After(nextCrash) {
			nextCrash = time.Now().Add(max(length/4, 2*time.Minute))
			require.NoError(t, s.control.Server.Crash())
			h.note("crash of the control database")
			require.NoError(t, s.control.Server.Restart(t.Context()))
			s.control.Pool.Reset()
		}
		_ = w.queue(ctx) // away for a moment
		require.NoError(t, w.atSources(ctx))
		require.Empty(t, w.breaches)
		wait(ctx, 50*time.Millisecond)
	}
	doneInTime := s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'archived'`)
	cancel()
	stopFleet()
	h.work.Wait()
	require.Empty(t, h.errs)
	t.Logf("%v: %v", time.Since(began).Round(time.Second), h.count)
	t.Logf("%d of %d batches archived; %v", doneInTime, planned, w)

	runs, snoozes := s.control.Int(t, `SELECT sum(attempt + coalesce((metadata->>'snoozes')::int, 0)) FROM archiver.river_job WHERE kind = 'archive_batch'`),
		s.control.Int(t, `SELECT coalesce(sum((metadata->>'snoozes')::int), 0) FROM archiver.river_job WHERE kind = 'archive_batch'`)
	t.Logf("%d fetches, of which %d in vain (%.2f %%)", runs, snoozes, percent(int(snoozes), int(runs)))

	s.finish(t)
	rows := s.eachRowOnce(t)
	t.Logf("%d rows, each in exactly one object", rows)
	if length >= 5*time.Minute {
		require.Greater(t, percent(w.taken, w.possible), 90.0, "the seats are used")
	}
}

// finish archives the rest without delay or disturbance.
func (s *site) finish(t *testing.T) {
	t.Helper()
	s.run(t, "resume")
	s.run(t, "work", "--drain", "--drain-patience", "30s")
	s.run(t, "run")
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE failed OR state NOT IN ('archived', 'empty')`), "batches that are not done")
	require.Zero(t, s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE finalized_at IS NULL AND kind = 'archive_batch'`), "jobs left")
}

// eachRowOnce looks for every row that was ever inserted: it is in exactly one object
// that has a manifest, as it was, and in no table.
func (s *site) eachRowOnce(t *testing.T) int {
	t.Helper()
	found := map[string]map[int64]string{} // table -> id -> payload
	for _, key := range s.bucket.Keys(t) {
		if !layout.IsManifest(key) {
			continue
		}
		var m layout.Manifest
		require.NoError(t, json.Unmarshal(s.bucket.Read(t, key), &m))
		r, err := encode.NewReader(bytes.NewReader(s.bucket.Read(t, m.Object)), m.Compression)
		require.NoError(t, err)
		raw, err := io.ReadAll(r)
		require.NoError(t, err)
		name := m.Database + "." + m.Table
		if found[name] == nil {
			found[name] = map[int64]string{}
		}
		for line := range strings.Lines(string(raw)) {
			var row struct {
				ID      int64
				Payload string
			}
			require.NoError(t, json.Unmarshal([]byte(line), &row))
			require.NotContains(t, found[name], row.ID, "%s: row %d is archived twice", name, row.ID)
			found[name][row.ID] = row.Payload
		}
	}
	total := 0
	for _, database := range databases {
		for _, table := range tables {
			name := database + "." + table
			db := s.sources[database]
			require.Zero(t, db.Int(t, `SELECT count(*) FROM `+table), name)
			require.Len(t, found[name], s.rows, name)
			for id := range int64(s.rows) {
				sum := md5.Sum(fmt.Appendf(nil, "%s%d", name, id+1))
				require.Equal(t, hex.EncodeToString(sum[:]), found[name][id+1], "%s: row %d is lost or another", name, id+1)
			}
			total += s.rows
		}
	}
	require.NotZero(t, total)
	require.Len(t, found, len(databases)*len(tables))
	return total
}
