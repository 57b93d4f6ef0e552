package crash

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// version names one version of one row: what it says, not where it lies.
type version struct {
	table       string
	id, version int64
	sum         string // MD5 of its JSON
}

// oracle judges where each row version is. It is used by a test's own goroutine.
type oracle struct {
	s     *site
	read  map[string][]version // objects that were read from storage, by key
	looks int                  // how often it was asked

	// What a failover to a standby that lacked the last commits has done. again: rows
	// that the archiver had deleted and that came back. undone: versions that were
	// written, perhaps archived, and are forgotten by the new primary.
	again, undone map[version]bool
}

func newOracle(s *site) *oracle {
	return &oracle{s: s, read: map[string][]version{}, again: map[version]bool{}, undone: map[version]bool{}}
}

// snapshot is the tables and the truth at one instant of the source.
type snapshot struct {
	rows  map[version]bool
	truth map[version]bool
	at    time.Time // not before that instant
}

func takeSnapshot(t *testing.T, db *testkit.DB) snapshot {
	t.Helper()
	s := snapshot{rows: map[version]bool{}, truth: map[version]bool{}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tx, err := db.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(ctx)) }()
	// The locks come first: a snapshot that is older than a rewrite of the table finds
	// that table empty.
	_, err = tx.Exec(ctx, `LOCK TABLE audit_logs, parted IN ACCESS SHARE MODE`)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&s.at))
	for sql, into := range map[string]map[version]bool{
		`SELECT 'audit_logs', id, version, truth.sum(id, version, created_at, actor, payload) FROM audit_logs
		 UNION ALL SELECT 'parted', id, version, truth.sum(id, version, created_at, actor, payload) FROM parted`: s.rows,
		`SELECT tab, id, version, sum FROM truth.row`: s.truth,
	} {
		rows, err := tx.Query(ctx, sql)
		require.NoError(t, err)
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v version, err error) {
			err = row.Scan(&v.table, &v.id, &v.version, &v.sum)
			return v, err
		})
		require.NoError(t, err)
		for _, v := range found {
			into[v] = true
		}
	}
	return s
}

// entry is what the ledger says about an object that may hold the only copy of a row.
type entry struct {
	key, compression  string
	sha256            []byte
	rows              int64
	verifiedAt        time.Time
	objectIs, batchIs string
	batchRows         *int64
	database, table   string
}

func (o *oracle) ledger(t *testing.T) []entry {
	t.Helper()
	rows, err := o.s.control.Pool.Query(t.Context(), `
		SELECT o.key, o.compression, o.sha256, o.rows, o.verified_at, o.state, b.state, b.rows, t.database, t.name
		FROM archiver.object o JOIN archiver.batch b ON b.id = o.batch_id JOIN archiver.archive_table t ON t.id = b.table_id
		WHERE o.state IN ('verified', 'committed')`)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		err = row.Scan(&e.key, &e.compression, &e.sha256, &e.rows, &e.verifiedAt, &e.objectIs, &e.batchIs, &e.batchRows, &e.database, &e.table)
		return e, err
	})
	require.NoError(t, err)
	return out
}

// check is the invariant of every instant: each row version that its owner has not
// removed is in the table, or in an object that storage has and that the ledger held
// for verified before the row left the table.
//
// Nothing stands still meanwhile. The tables and the truth are read first, as of one
// instant. What is missing from the tables then was deleted before; its object was
// verified before that, and can since only have become committed. So the ledger,
// which is read afterwards, must still show it, and as verified at a time before the
// instant. The other order would miss what is verified and deleted in between.
func (o *oracle) check(t *testing.T) {
	t.Helper()
	o.looks++
	s := takeSnapshot(t, o.s.source)
	missing := map[version]bool{}
	for v := range s.truth {
		if !s.rows[v] {
			missing[v] = true
		}
	}
	for v := range s.rows {
		require.True(t, s.truth[v], "%v is in the table, and nobody has written it", v)
	}
	for _, e := range o.ledger(t) {
		deleted := e.objectIs == "committed" && e.batchIs == "archived" || e.objectIs == "verified" && e.batchIs == "deleting"
		if !deleted || e.verifiedAt.After(s.at) {
			continue
		}
		for _, v := range o.object(t, e) {
			delete(missing, v)
		}
	}
	require.Empty(t, missing, "row versions that are neither in the table nor in a verified object; snapshot at %v, seed above", s.at)
}

// object reads an object from storage, compares it with what the ledger holds, and
// returns its rows. Objects never change, so each is read once here; settled reads
// all of them again.
func (o *oracle) object(t *testing.T, e entry) []version {
	t.Helper()
	if rows, ok := o.read[e.key]; ok {
		return rows
	}
	body := o.s.bucket.Read(t, e.key)
	sum := sha256.Sum256(body)
	require.Equal(t, e.sha256, sum[:], "SHA-256 of %s", e.key)
	rows := versions(t, e.table, e.compression, body)
	require.Len(t, rows, int(e.rows), e.key)
	o.read[e.key] = rows
	return rows
}

// versions decodes an object. A row is known by the columns that the table had at
// first, in their order, byte for byte as they were archived.
func versions(t *testing.T, table, compression string, body []byte) []version {
	t.Helper()
	r, err := encode.NewReader(bytes.NewReader(body), compression)
	require.NoError(t, err)
	raw, err := io.ReadAll(r)
	require.NoError(t, err)
	var out []version
	for line := range bytes.Lines(raw) {
		var row struct{ ID, Version int64 }
		var named map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(line, &named), "%s", line)
		require.NoError(t, json.Unmarshal(line, &row), "%s", line)
		payload, ok := named["payload"]
		if !ok { // so is an SQL NULL archived, to tell it from a JSON null
			payload = json.RawMessage("null")
		}
		text := fmt.Appendf(nil, `{"id":%s,"version":%s,"created_at":%s,"actor":%s,"payload":%s}`,
			named["id"], named["version"], named["created_at"], named["actor"], payload)
		sum := md5.Sum(text)
		out = append(out, version{table: table, id: row.ID, version: row.Version, sum: hex.EncodeToString(sum[:])})
	}
	return out
}

// figures are what a test reports at its end.
type figures struct {
	rows, objects, batches int64
	twice                  int // row versions in two places, which only a failover can cause
}

// settled is the judgement when nothing is left to do: each row version is in
// exactly one place, the table or one committed object, and nothing else is in
// either. Ledger, manifests and objects say the same, to the byte.
func (o *oracle) settled(t *testing.T) figures {
	t.Helper()
	o.check(t)
	clear(o.read)
	s := takeSnapshot(t, o.s.source)
	places := map[version]int{}
	for v := range s.rows {
		places[v]++
	}
	committed := map[string]entry{}
	var f figures
	for _, e := range o.ledger(t) {
		require.Equal(t, []string{"committed", "archived"}, []string{e.objectIs, e.batchIs}, e.key)
		require.NotNil(t, e.batchRows, e.key)
		require.Equal(t, e.rows, *e.batchRows, e.key)
		committed[e.key] = e
	}
	for _, key := range o.s.bucket.Keys(t) {
		if !layout.IsManifest(key) {
			continue
		}
		var m layout.Manifest
		require.NoError(t, json.Unmarshal(o.s.bucket.Read(t, key), &m), key)
		e, ok := committed[m.Object]
		require.True(t, ok, "%s has a manifest, and the ledger does not hold it for committed", m.Object)
		delete(committed, m.Object)
		require.Equal(t, hex.EncodeToString(e.sha256), m.SHA256, key)
		require.Equal(t, e.rows, m.Rows, key)
		require.Equal(t, []string{e.database, "public", e.table}, []string{m.Database, m.Schema, m.Table}, key)
		for _, v := range o.object(t, e) {
			places[v]++
		}
		f.objects++
		f.rows += m.Rows
	}
	require.Empty(t, committed, "objects that the ledger holds for committed, without a manifest")
	for v := range s.truth {
		require.Positive(t, places[v], "%v is lost", v)
	}
	for v, n := range places {
		allowed := 0
		if s.truth[v] {
			allowed++
		}
		if o.again[v] || o.undone[v] {
			allowed++
		}
		require.LessOrEqual(t, n, allowed, "%v is in so many places", v)
		f.twice += n / 2
	}
	f.batches = o.s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE state = 'archived'`)
	require.Equal(t, f.objects, f.batches, "archived batches and manifests")
	require.Zero(t, o.s.control.Int(t, `SELECT count(*) FROM archiver.batch WHERE failed OR state NOT IN ('archived', 'empty')`), "batches that are not done")
	require.Zero(t, o.s.control.Int(t, `SELECT count(*) FROM archiver.river_job WHERE finalized_at IS NULL`), "jobs left")
	return f
}
