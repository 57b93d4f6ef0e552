package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/keyrange"
)

// Batch is one row of the ledger with what belongs to it.
type Batch struct {
	ID, RunID, TableID, JobID int64
	Database, Schema, Table   string
	KeyColumns                []string // timestamp column first
	CutoffValue               string
	Cutoff                    time.Time
	State                     State
	Failed                    bool
	Attempt, Mismatches       int
	Range                     keyrange.Range
	Partition                 string
	RowsPlanned               int64
	Object                    *Object // the verified or committed object, if any
}

// Object is what is known about an object that was read back whole.
type Object struct {
	ID                    int64
	Attempt               int
	State                 ObjectState
	Key, VersionID        string
	Rows                  int64
	RawBytes, StoredBytes int64
	RawSHA256, SHA256     [32]byte
	Digest                digest.Digest
	ContentGuard          bool
	ReadFrom              string // source.Primary or source.ReadReplica
	Fingerprint           string
	SystemID, Timeline    string
	Compression           string
	ManifestKey, Manifest string // Manifest is empty once it is in storage
}

const batchSelect = `
SELECT b.id, b.run_id, b.table_id, b.job_id, t.database, t.schema, t.name, r.key_columns, r.cutoff_value, r.cutoff,
       b.state, b.failed, b.attempt, b.mismatches, b.from_ts, b.after_key, b.to_key, b.partition, b.rows_planned,
       o.id, o.attempt, o.state, o.key, o.version_id, o.rows, o.raw_bytes, o.stored_bytes, o.raw_sha256, o.sha256,
       o.digest, o.content_guard, o.read_from, o.fingerprint, o.system_identifier, o.timeline, o.compression, o.manifest_key, o.manifest
FROM %s b
JOIN {s}.run r ON r.id = b.run_id
JOIN {s}.archive_table t ON t.id = b.table_id
LEFT JOIN {s}.object o ON o.batch_id = b.id AND o.state IN ('verified', 'committed')`

// Get reads one batch.
func (l *Ledger) Get(ctx context.Context, id int64) (*Batch, error) {
	return l.scanBatch(ctx, l.Pool, fmt.Sprintf(batchSelect, "{s}.batch")+` WHERE b.id = $1`, id)
}

// Claim starts a new attempt at a batch and returns it as it stands; it does not
// count as failed meanwhile. A final batch is returned as it is, with no new attempt.
func (l *Ledger) Claim(ctx context.Context, id int64) (*Batch, error) {
	sql := `WITH claimed AS (
	UPDATE {s}.batch SET attempt = attempt + 1, failed = false, waiting_for = NULL, updated_at = now()
	WHERE id = $1 AND state IN ('planned', 'verified', 'deleting') RETURNING *)` +
		fmt.Sprintf(batchSelect, "claimed")
	b, err := l.scanBatch(ctx, l.Pool, sql, id)
	if errors.Is(err, ErrNotFound) {
		return l.Get(ctx, id)
	}
	return b, err
}

func (l *Ledger) scanBatch(ctx context.Context, q querier, sql string, args ...any) (*Batch, error) {
	var (
		b    Batch
		o    Object
		oid  *int64
		oatt *int
		text [11]*string // the object's text columns are null when there is none
		num  [3]*int64
		raw  []byte
		sum  []byte
		cg   *bool
	)
	err := q.QueryRow(ctx, l.SQL(sql), args...).Scan(
		&b.ID, &b.RunID, &b.TableID, &b.JobID, &b.Database, &b.Schema, &b.Table, &b.KeyColumns, &b.CutoffValue, &b.Cutoff,
		&b.State, &b.Failed, &b.Attempt, &b.Mismatches, &b.Range.FromTS, &b.Range.After, &b.Range.To, &b.Partition, &b.RowsPlanned,
		&oid, &oatt, &text[0], &text[1], &text[2], &num[0], &num[1], &num[2], &raw, &sum,
		&text[3], &cg, &text[10], &text[4], &text[5], &text[6], &text[7], &text[8], &text[9])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read batch: %w", err)
	}
	if oid == nil {
		return &b, nil
	}
	d, err := digest.Parse(*text[3])
	if err != nil {
		return nil, fmt.Errorf("batch %d: %w", b.ID, err)
	}
	if len(raw) != 32 || len(sum) != 32 {
		return nil, fmt.Errorf("batch %d: the ledger holds a hash of the wrong length", b.ID)
	}
	o = Object{
		ID: *oid, Attempt: *oatt, State: ObjectState(*text[0]), Key: *text[1], VersionID: *text[2],
		Rows: *num[0], RawBytes: *num[1], StoredBytes: *num[2], RawSHA256: [32]byte(raw), SHA256: [32]byte(sum),
		Digest: d, ContentGuard: *cg, ReadFrom: *text[10], Fingerprint: *text[4], SystemID: *text[5], Timeline: *text[6],
		Compression: *text[7], ManifestKey: *text[8],
	}
	if text[9] != nil {
		o.Manifest = *text[9]
	}
	b.Object = &o
	return &b, nil
}

// Timings are the seconds that each phase of a batch took.
type Timings struct {
	Query     float64 `json:"query"`
	Serialize float64 `json:"serialize"`
	Compress  float64 `json:"compress"`
	Upload    float64 `json:"upload"`
	Verify    float64 `json:"verify"`
	Delete    float64 `json:"delete"`
	Record    float64 `json:"record"`
	Total     float64 `json:"total"`
}

// Add sums two sets of timings.
func (t Timings) Add(o Timings) Timings {
	return Timings{
		Query: t.Query + o.Query, Serialize: t.Serialize + o.Serialize, Compress: t.Compress + o.Compress,
		Upload: t.Upload + o.Upload, Verify: t.Verify + o.Verify, Delete: t.Delete + o.Delete,
		Record: t.Record + o.Record, Total: t.Total + o.Total,
	}
}

func (t Timings) json() string {
	b, err := json.Marshal(t)
	if err != nil { // floats that are NaN; a duration never is
		return "{}"
	}
	return string(b)
}
