package ledger_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// bundle is a ledger with one table and one run.
type bundle struct {
	*ledger.Ledger
	db             *testkit.DB
	tableID, runID int64
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{db: testkit.Postgres(t)}
	_, _, err := migrations.Up(t.Context(), b.db.Pool, "archiver", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	b.Ledger = ledger.New(b.db.Pool, "archiver")
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error {
		if b.tableID, err = b.EnsureTable(ctx, tx, "main", "public", "audit_logs"); err != nil {
			return err
		}
		b.runID, err = b.CreateRun(ctx, tx, b.tableID, time.Unix(1_700_000_000, 0), "2023-11-14 22:13:20+00", []string{"created_at", "id"})
		return err
	})
	return b
}

// tx runs fn in a transaction that must commit.
func (b *bundle) tx(t *testing.T, fn func(context.Context, pgx.Tx) error) {
	t.Helper()
	require.NoError(t, b.inTx(t, fn))
}

func (b *bundle) inTx(t *testing.T, fn func(context.Context, pgx.Tx) error) error {
	t.Helper()
	return pgx.BeginFunc(t.Context(), b.Pool, func(tx pgx.Tx) error { return fn(t.Context(), tx) })
}

// planned inserts one more batch and returns its id.
func (b *bundle) planned(t *testing.T) int64 {
	t.Helper()
	var id int64
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error {
		ids, err := b.BatchIDs(ctx, tx, 1)
		if err != nil {
			return err
		}
		id = ids[0]
		from := "2023-01-01 00:00:00+00"
		return b.InsertBatches(ctx, tx, b.runID, b.tableID, []ledger.NewBatch{{
			ID: id, JobID: 1000 + id, Range: keyrange.Range{FromTS: &from, To: []string{"2023-01-02 00:00:00+00", "9"}},
			Partition: "year=2023/month=01", Rows: 9,
		}})
	})
	return id
}

// in claims a new batch and takes it to a state on the ways that attempts take.
func (b *bundle) in(t *testing.T, state ledger.State) *ledger.Batch {
	t.Helper()
	ctx := t.Context()
	batch, err := b.Claim(ctx, b.planned(t))
	require.NoError(t, err)
	switch state {
	case ledger.Planned:
	case ledger.Empty:
		b.tx(t, func(ctx context.Context, tx pgx.Tx) error { return b.Emptied(ctx, tx, batch) })
	case ledger.Cancelled:
		b.tx(t, func(ctx context.Context, tx pgx.Tx) error { return b.CancelAttempt(ctx, tx, batch, "test") })
	case ledger.Verified, ledger.Deleting, ledger.Archived:
		require.NoError(t, b.RecordVerified(ctx, batch, anObject()))
		if state != ledger.Verified {
			require.NoError(t, b.StartDelete(ctx, batch))
		}
		if state == ledger.Archived {
			b.tx(t, func(ctx context.Context, tx pgx.Tx) error { return b.Archived(ctx, tx, batch, "0/1", ledger.Timings{}) })
		}
	}
	got, err := b.Get(ctx, batch.ID)
	require.NoError(t, err)
	require.Equal(t, state, got.State)
	return got
}

func anObject() ledger.Object {
	d := digest.Digest{Count: 9, Hi: 1 << 63, Lo: 7}
	return ledger.Object{
		Key: "pre/x.jsonl.gz", VersionID: "v1", Rows: 9, RawBytes: 900, StoredBytes: 90,
		RawSHA256: [32]byte{1, 2}, SHA256: [32]byte{3, 4}, Digest: d, ContentGuard: true, ReadFrom: "replica", Fingerprint: "print",
		SystemID: "7", Timeline: "00000001", Compression: "gzip", ManifestKey: "pre/x.manifest.json", Manifest: "{}\n",
	}
}

// everything is all that the ledger holds about a batch, as text.
func (b *bundle) everything(t *testing.T, id int64) string {
	t.Helper()
	return b.db.Text(t, `SELECT concat((SELECT to_jsonb(b) FROM archiver.batch b WHERE id = $1), (SELECT jsonb_agg(o ORDER BY id) FROM archiver.object o WHERE batch_id = $1), (SELECT count(*) FROM archiver.batch))`, id)
}
