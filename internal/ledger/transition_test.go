package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// transitions are all changes of a batch's state: where each is allowed, and where
// it leads to.
var transitions = []struct {
	name string
	from []ledger.State
	to   ledger.State
	do   func(context.Context, *bundle, pgx.Tx, *ledger.Batch) error
}{
	{"RecordVerified", []ledger.State{ledger.Planned}, ledger.Verified, func(ctx context.Context, b *bundle, _ pgx.Tx, batch *ledger.Batch) error {
		return b.RecordVerified(ctx, batch, anObject())
	}},
	{"StartDelete", []ledger.State{ledger.Verified}, ledger.Deleting, func(ctx context.Context, b *bundle, _ pgx.Tx, batch *ledger.Batch) error {
		return b.StartDelete(ctx, batch)
	}},
	{"NotDeleted", []ledger.State{ledger.Deleting}, ledger.Verified, func(ctx context.Context, b *bundle, _ pgx.Tx, batch *ledger.Batch) error {
		return b.NotDeleted(ctx, batch)
	}},
	{"ExtractAgain", []ledger.State{ledger.Verified, ledger.Deleting}, ledger.Planned, func(ctx context.Context, b *bundle, _ pgx.Tx, batch *ledger.Batch) error {
		return b.ExtractAgain(ctx, batch, ledger.ObjectSuperseded, true)
	}},
	{"Archived", []ledger.State{ledger.Deleting}, ledger.Archived, func(ctx context.Context, b *bundle, tx pgx.Tx, batch *ledger.Batch) error {
		if batch.Object == nil {
			o := anObject()
			batch.Object = &o
		}
		return b.Archived(ctx, tx, batch, "0/10", ledger.Timings{Total: 1})
	}},
	{"Emptied", []ledger.State{ledger.Planned}, ledger.Empty, func(ctx context.Context, b *bundle, tx pgx.Tx, batch *ledger.Batch) error {
		return b.Emptied(ctx, tx, batch)
	}},
	{"CancelAttempt", []ledger.State{ledger.Planned, ledger.Verified}, ledger.Cancelled, func(ctx context.Context, b *bundle, tx pgx.Tx, batch *ledger.Batch) error {
		return b.CancelAttempt(ctx, tx, batch, "no reason")
	}},
	{"Split", []ledger.State{ledger.Planned}, ledger.Planned, func(ctx context.Context, b *bundle, tx pgx.Tx, batch *ledger.Batch) error {
		ids, err := b.BatchIDs(ctx, tx, 1)
		if err != nil {
			return err
		}
		return b.Split(ctx, tx, batch, []string{"2023-01-01 12:00:00+00", "4"}, 4, 5, ids[0], 99)
	}},
}

var states = []ledger.State{ledger.Planned, ledger.Verified, ledger.Deleting, ledger.Archived, ledger.Empty, ledger.Cancelled}

// TestEveryTransition tries each change in each state, by the attempt that owns the
// batch and by one that was overtaken. What is not allowed changes nothing.
func TestEveryTransition(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, tr := range transitions {
		for _, state := range states {
			for _, overtaken := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s from %s, overtaken %t", tr.name, state, overtaken), func(t *testing.T) {
					batch := b.in(t, state)
					if overtaken {
						batch.Attempt--
					}
					before := b.everything(t, batch.ID)
					was := *batch
					err := b.inTx(t, func(ctx context.Context, tx pgx.Tx) error { return tr.do(ctx, b, tx, batch) })
					if overtaken || !slices.Contains(tr.from, state) {
						require.ErrorIs(t, err, ledger.ErrStale)
						require.Equal(t, before, b.everything(t, batch.ID))
						require.Equal(t, was.State, batch.State, "the caller's copy says what is in the ledger")
						return
					}
					require.NoError(t, err)
					got, err := b.Get(t.Context(), batch.ID)
					require.NoError(t, err)
					require.Equal(t, tr.to, got.State)
				})
			}
		}
	}
}

func TestFinal(t *testing.T) {
	t.Parallel()
	var final []ledger.State
	for _, s := range states {
		if s.Final() {
			final = append(final, s)
		}
	}
	require.Equal(t, []ledger.State{ledger.Archived, ledger.Empty, ledger.Cancelled}, final)
}

func TestRecordVerifiedRemembersTheObject(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Planned)
	require.NoError(t, b.RecordVerified(t.Context(), batch, anObject()))
	got, err := b.Get(t.Context(), batch.ID)
	require.NoError(t, err)
	want := anObject()
	want.ID, want.Attempt, want.State = got.Object.ID, 1, ledger.ObjectVerified
	require.Equal(t, &want, got.Object)
	require.Equal(t, got.Object, batch.Object, "the caller's copy is the same")
}

// TestOneObjectSpeaksForABatch has the database refuse a second one, whatever code
// comes to try it.
func TestOneObjectSpeaksForABatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Verified)
	const columns = `batch_id, attempt, key, version_id, rows, raw_bytes, stored_bytes, raw_sha256, sha256, digest, content_guard, fingerprint, system_identifier, timeline, compression, manifest_key`
	_, err := b.Pool.Exec(t.Context(), `INSERT INTO archiver.object (`+columns+`) SELECT `+columns+` FROM archiver.object WHERE batch_id = $1`, batch.ID)
	require.ErrorContains(t, err, "object_current")
	require.NoError(t, b.ExtractAgain(t.Context(), batch, ledger.ObjectDiscarded, false))
	require.NoError(t, b.RecordVerified(t.Context(), batch, anObject()), "once the first is set aside")
	require.EqualValues(t, 2, b.db.Int(t, `SELECT count(*) FROM archiver.object WHERE batch_id = $1`, batch.ID))
}

func TestExtractAgainCountsMismatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Verified)
	for n, fate := range []ledger.ObjectState{ledger.ObjectDiscarded, ledger.ObjectSuperseded} {
		require.NoError(t, b.ExtractAgain(t.Context(), batch, fate, true))
		require.Nil(t, batch.Object)
		require.Equal(t, n+1, batch.Mismatches)
		got, err := b.Get(t.Context(), batch.ID)
		require.NoError(t, err)
		require.Equal(t, n+1, got.Mismatches)
		require.Nil(t, got.Object, "an object that was set aside does not speak for the batch")
		require.EqualValues(t, 1, b.db.Int(t, `SELECT count(*) FROM archiver.object WHERE batch_id = $1 AND state = $2`, batch.ID, fate))
		require.NoError(t, b.RecordVerified(t.Context(), batch, anObject()))
	}
	require.NoError(t, b.ExtractAgain(t.Context(), batch, ledger.ObjectDiscarded, false))
	require.Equal(t, 2, batch.Mismatches, "not every reason to read again is a busy row")
}

func TestSplitLosesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Planned)
	cut := []string{"2023-01-01 12:00:00+00", "4"}
	var ids []int64
	b.tx(t, func(ctx context.Context, tx pgx.Tx) (err error) {
		if ids, err = b.BatchIDs(ctx, tx, 1); err != nil {
			return err
		}
		return b.Split(ctx, tx, batch, cut, 4, 5, ids[0], 99)
	})
	lower, err := b.Get(t.Context(), batch.ID)
	require.NoError(t, err)
	upper, err := b.Get(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, batch.Range.FromTS, lower.Range.FromTS)
	require.Equal(t, cut, lower.Range.To)
	require.Nil(t, upper.Range.FromTS)
	require.Equal(t, cut, upper.Range.After, "the rest starts where the first part ends")
	require.Equal(t, batch.Range.To, upper.Range.To)
	require.EqualValues(t, 9, lower.RowsPlanned+upper.RowsPlanned)
	require.Equal(t, []any{ledger.Planned, 0, int64(99), lower.Partition, lower.RunID}, []any{upper.State, upper.Attempt, upper.JobID, upper.Partition, upper.RunID})
}

func TestArchivedClosesEverything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Deleting)
	require.NoError(t, b.Failed(t.Context(), batch.ID, batch.Attempt, "storage away", "look", true))
	require.NoError(t, b.Waiting(t.Context(), batch, "storage"))
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error {
		return b.Archived(ctx, tx, batch, "0/20", ledger.Timings{Total: 2.5})
	})
	require.JSONEq(t, `{"state": "archived", "failed": false, "rows": 9, "stored_bytes": 90, "last_error": null, "last_hint": null, "waiting_for": null, "delete_lsn": "0/20", "total": 2.5, "dated": true}`,
		b.db.Text(t, `SELECT jsonb_build_object('state', state, 'failed', failed, 'rows', rows, 'stored_bytes', stored_bytes, 'last_error', last_error, 'last_hint', last_hint,
			'waiting_for', waiting_for, 'delete_lsn', delete_lsn, 'total', timings->'total', 'dated', archived_at IS NOT NULL)::text FROM archiver.batch WHERE id = $1`, batch.ID))
	require.Equal(t, "committed", b.db.Text(t, `SELECT state FROM archiver.object WHERE batch_id = $1 AND manifest IS NULL`, batch.ID))
	require.Equal(t, "0/20", b.db.Text(t, `SELECT last_delete_lsn::text FROM archiver.archive_table`))

	older := b.in(t, ledger.Deleting)
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error {
		return b.Archived(ctx, tx, older, "0/10", ledger.Timings{})
	})
	require.Equal(t, "0/20", b.db.Text(t, `SELECT last_delete_lsn::text FROM archiver.archive_table`), "the position never goes back")
	unknown := b.in(t, ledger.Deleting)
	b.tx(t, func(ctx context.Context, tx pgx.Tx) error { return b.Archived(ctx, tx, unknown, "", ledger.Timings{}) })
	require.Equal(t, "0/20", b.db.Text(t, `SELECT last_delete_lsn::text FROM archiver.archive_table`))
}

// TestNotesAreFenced: an attempt that was overtaken cannot speak over the newer one.
func TestNotesAreFenced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	batch := b.in(t, ledger.Verified)
	old := *batch
	newer, err := b.Claim(t.Context(), batch.ID)
	require.NoError(t, err)
	before := b.everything(t, batch.ID)
	require.NoError(t, b.Failed(t.Context(), old.ID, old.Attempt, "late", "late", true))
	require.NoError(t, b.Waiting(t.Context(), &old, "late"))
	require.Equal(t, before, b.everything(t, batch.ID))

	require.NoError(t, b.Failed(t.Context(), newer.ID, newer.Attempt, "broken", "", true))
	require.Equal(t, "broken", b.db.Text(t, `SELECT last_error FROM archiver.batch WHERE id = $1 AND failed AND last_hint IS NULL`, batch.ID))
	require.NoError(t, b.Failed(t.Context(), newer.ID, newer.Attempt, "again", "", false))
	require.EqualValues(t, 1, b.db.Int(t, `SELECT count(*) FROM archiver.batch WHERE id = $1 AND failed`, batch.ID), "the flag stays up")

	for _, final := range []ledger.State{ledger.Archived, ledger.Empty, ledger.Cancelled} {
		done := b.in(t, final)
		before := b.everything(t, done.ID)
		require.NoError(t, b.Failed(t.Context(), done.ID, done.Attempt, "late", "late", true))
		require.Equal(t, before, b.everything(t, done.ID), "a batch that is %s cannot fail any more", final)
	}
}
