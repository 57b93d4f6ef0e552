package source

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
)

func TestParseLSN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]lsn{"": 0, "0/0": 0, "0/15E8": 0x15E8, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": ^lsn(0)} {
		got, err := parseLSN(text)
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"16", "/", "1/", "g/0", "100000000/0"} {
		_, err := parseLSN(text)
		require.Error(t, err, text)
	}
}

func TestComment(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	require.Empty(t, commentOf(ctx))
	ctx = doing(ctx, "plan", config.Table{Database: "orders", Schema: "public", Name: "audit_logs"})
	require.Equal(t, "/* archiver plan orders.public.audit_logs */ ", commentOf(ctx))
	ctx = WithBatch(ctx, 17)
	require.Equal(t, "/* archiver batch 17 plan orders.public.audit_logs */ ", commentOf(ctx))
	ctx = doing(ctx, "read", config.Table{Database: "orders", Schema: "a\nb", Name: "*/ /* ü"})
	require.Equal(t, `/* archiver batch 17 read orders."a?b"."?? ?? ü" */ `, commentOf(ctx))
}

// TestStanding holds a replica to what the delete of other batches and the configuration
// ask of it.
func TestStanding(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for name, c := range map[string]struct {
		replayed, now, need lsn
		maxLagMB            int
		want                ReplicaTrouble
	}{
		"level":                                 {100, 100, 0, 0, ""},
		"a byte behind, none allowed":           {99, 100, 0, 0, ReplicaLags},
		"as far behind as it may be":            {0, mb, 0, 1, ""},
		"a byte further":                        {0, mb + 1, 0, 1, ReplicaLags},
		"the last delete is replayed":           {50, 100, 50, 64, ""},
		"it is not":                             {49, 100, 50, 64, ReplicaBehind},
		"the last delete was lost in failover":  {100, 100, 500, 64, ""},
		"and the rest is not replayed":          {99, 100, 500, 64, ReplicaBehind},
		"ahead of the primary: another history": {101, 100, 0, 64, ReplicaUnfit},
	} {
		not := (&standing{standby: true, known: true, replayed: c.replayed}).behind("d", c.now, c.need, c.maxLagMB)
		if c.want == "" {
			require.Nil(t, not, name)
			continue
		}
		require.NotNil(t, not, name)
		require.Equal(t, c.want, not.Trouble, name)
	}
}

func TestBlameReplica(t *testing.T) {
	t.Parallel()
	d := &DB{Name: "d"}
	for code, want := range map[string]ReplicaTrouble{
		"40001": ReplicaConflict, "40P01": ReplicaConflict, "57P01": ReplicaAway, "08006": ReplicaAway, "25006": ReplicaAway,
		"42P01": ReplicaRefuses, "42501": ReplicaRefuses, "0A000": ReplicaRefuses, "XX001": ReplicaRefuses,
		"57014": "", "22021": "", // the same on the primary: an error of the batch
	} {
		cause := &pgconn.PgError{Code: code}
		err := d.blameReplica(t.Context(), cause)
		require.ErrorIs(t, err, cause)
		var not *ReplicaError
		require.Equal(t, want != "", errors.As(err, &not), code)
		if want != "" {
			require.Equal(t, want, not.Trouble, code)
			require.Equal(t, Unavailable, Classify(err), code)
		}
	}
	require.NoError(t, d.blameReplica(t.Context(), nil))
	spool := errors.New("no space left")
	require.Equal(t, spool, d.blameReplica(t.Context(), spool))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	away := &pgconn.PgError{Code: "57P01"}
	require.Equal(t, error(away), d.blameReplica(ended, away))
}
