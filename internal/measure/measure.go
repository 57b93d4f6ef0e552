package measure

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// Options say how much is tried, and how.
type Options struct {
	Rows    int64 // about so many of the oldest rows; at least one batch
	Workers int   // batches at a time, at least 1
	// SpoolDir is where rows wait in files; empty means the system's temporary folder.
	SpoolDir string
	Timeout  time.Duration // of one batch's read

	// Store takes objects under Prefix; nil uploads nothing, and what is read back is the
	// local file.
	Store  *objstore.Store
	Prefix string // ends with a slash
}

// Phases are seconds, summed over batches, which overlap.
type Phases struct {
	Plan      float64 `json:"plan"`
	Query     float64 `json:"query"`
	Serialize float64 `json:"serialize"`
	Compress  float64 `json:"compress"`
	Upload    float64 `json:"upload"`
	Verify    float64 `json:"verify"`
}

// Result is what was measured.
type Result struct {
	Rows        int64   `json:"rows"`
	Batches     int64   `json:"batches"`
	RawBytes    int64   `json:"raw_bytes"`    // of JSON lines
	StoredBytes int64   `json:"stored_bytes"` // compressed
	Phases      Phases  `json:"phases"`
	Seconds     float64 `json:"seconds"` // that passed, planning included

	PeakMemoryMB float64 `json:"peak_memory_mb"` // of this process; 0 where the system does not tell
	// ReadFloorSeconds is what a plain read of the same rows takes: see readFloor.
	ReadFloorSeconds float64 `json:"read_floor_seconds"`
}

// RowsPerSecond is of the whole, with as many batches at a time as were asked for.
func (r Result) RowsPerSecond() float64 {
	if r.Seconds == 0 {
		return 0
	}
	return float64(r.Rows) / r.Seconds
}

// TimesReadFloor is how many times as long as the plain read all of it took.
func (r Result) TimesReadFloor() float64 {
	if r.ReadFloorSeconds == 0 {
		return 0
	}
	return r.Seconds / r.ReadFloorSeconds
}

var errEnough = errors.New("enough rows")

// Table measures the rows that are older than the table's retention. The table must have
// passed the preflight. A result without rows means that none is old enough.
func Table(ctx context.Context, db *source.DB, table *source.Table, o Options) (Result, error) {
	m := &measurement{db: db, table: table, options: o}
	began := time.Now()
	pages, err := m.plan(ctx)
	if err != nil {
		return Result{}, err
	}
	m.result.Phases.Plan = time.Since(began).Seconds()
	m.read = make([]int64, len(pages))
	if err := m.batches(ctx, pages); err != nil {
		return Result{}, err
	}
	m.result.Seconds = time.Since(began).Seconds()
	m.result.PeakMemoryMB = peakMemoryMB()
	return m.result, m.readFloor(ctx, pages)
}

func (m *measurement) batches(ctx context.Context, pages []source.Page) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(m.options.Workers, 1))
	for i, page := range pages {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return m.batch(ctx, i, page)
		})
	}
	return g.Wait()
}

// readFloor reads the same rows once more, as COPY gives them and to nowhere, one batch
// after the other: that is the least which anybody waits for who reads one batch at a time.
//
// It comes last, although the server has the pages at hand by then: read first, it would
// have fetched them for the measurement, and the rows a second would no longer be those of
// a table that nobody has read for months. So the ratio errs against us and never for us;
// where the rows came from a disk, a second call of bench tells by how much.
func (m *measurement) readFloor(ctx context.Context, pages []source.Page) error {
	if m.result.Rows == 0 {
		return nil
	}
	began := time.Now()
	for i, page := range pages {
		if m.read[i] == 0 {
			continue
		}
		if _, err := m.db.CopyPlain(ctx, m.table, page.Range, m.read[i], m.options.Timeout); err != nil {
			return err
		}
	}
	m.result.ReadFloorSeconds = time.Since(began).Seconds()
	return nil
}

type measurement struct {
	db      *source.DB
	table   *source.Table
	options Options

	read []int64 // rows of each page; its batch alone writes it

	mu     sync.Mutex
	result Result
}

// plan cuts the oldest rows as the planner would.
func (m *measurement) plan(ctx context.Context) ([]source.Page, error) {
	cutoff, err := m.db.Cutoff(ctx, m.table, nil)
	if err != nil {
		return nil, err
	}
	var pages []source.Page
	var rows int64
	err = m.db.Walk(ctx, m.table, nil, cutoff.Value, m.table.Config.BatchSize, func(p source.Page) error {
		pages = append(pages, p)
		if rows += p.Rows; rows >= m.options.Rows {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return pages, err
}

// batch does with one batch what a worker does, as far as that changes nothing.
func (m *measurement) batch(ctx context.Context, n int, page source.Page) error {
	spool, err := os.CreateTemp(m.options.SpoolDir, "archiver-bench-")
	if err != nil {
		return fmt.Errorf("make a spool file: %w", err)
	}
	defer spool.Close() //nolint:errcheck // unlinked
	if err := os.Remove(spool.Name()); err != nil {
		return fmt.Errorf("unlink the spool file: %w", err)
	}
	began := time.Now()
	object, err := m.extract(ctx, spool, page, 2*int64(m.table.Config.BatchSize))
	var tooLarge *encode.TooLargeError
	if errors.As(err, &tooLarge) { // a worker splits it there, and reads it again
		if err := rewind(spool); err != nil {
			return err
		}
		object, err = m.extract(ctx, spool, page, tooLarge.Rows)
	}
	if err != nil {
		return err
	}
	m.read[n] = object.Rows
	took := Phases{Serialize: object.Serialize.Seconds(), Compress: object.Compress.Seconds()}
	took.Query = max(time.Since(began)-object.Serialize, 0).Seconds()
	if object.Rows > 0 {
		if err := m.store(ctx, n, spool, object, &took); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.result
	r.Rows, r.Batches, r.RawBytes, r.StoredBytes = r.Rows+object.Rows, r.Batches+1, r.RawBytes+object.RawBytes, r.StoredBytes+object.StoredBytes
	p := &r.Phases
	p.Query, p.Serialize, p.Compress = p.Query+took.Query, p.Serialize+took.Serialize, p.Compress+took.Compress
	p.Upload, p.Verify = p.Upload+took.Upload, p.Verify+took.Verify
	return nil
}

func rewind(spool *os.File) error {
	err := spool.Truncate(0)
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("empty the spool file: %w", err)
	}
	return nil
}

func (m *measurement) extract(ctx context.Context, spool io.Writer, page source.Page, maxRows int64) (encode.Object, error) {
	c := m.table.Config
	content := c.DeleteGuard == config.DeleteGuardContent
	var out *encode.Writer
	_, err := m.db.Extract(ctx, source.ExtractRequest{
		Table: c, Key: m.table.KeyColumns(), Range: page.Range, MaxRows: maxRows, Content: content, Timeout: m.options.Timeout,
	}, func(t *source.Table) (io.Writer, error) {
		o := t.Encoding(content)
		o.Compression, o.Level, o.MaxRawBytes = c.Compression, c.CompressionLevel, c.MaxBatchBytes
		var err error
		out, err = encode.NewWriter(spool, o)
		return out, err
	}, func() int64 { return out.Rows() })
	if out == nil {
		return encode.Object{}, err
	}
	object, closeErr := out.Close()
	return object, errors.Join(err, closeErr)
}

// store uploads the spool if asked to, reads it back and compares.
func (m *measurement) store(ctx context.Context, n int, spool *os.File, object encode.Object, took *Phases) error {
	c := m.table.Config
	var body io.Reader = io.NewSectionReader(spool, 0, object.StoredBytes)
	began := time.Now()
	if m.options.Store != nil {
		key := fmt.Sprintf("%s%06d%s", m.options.Prefix, n, encode.Extension(c.Format, c.Compression))
		stored, err := m.options.Store.Put(ctx, key, spool, objstore.Blob{
			Size: object.StoredBytes, SHA256: object.StoredSHA256, CRC64NVME: object.CRC64NVME, ContentType: "application/octet-stream",
			Metadata: map[string]string{"sha256": hex.EncodeToString(object.StoredSHA256[:])},
		})
		if err != nil {
			return err
		}
		took.Upload = time.Since(began).Seconds()
		began = time.Now()
		back, _, err := m.options.Store.Get(ctx, key, stored.VersionID)
		if err != nil {
			return err
		}
		defer back.Close() //nolint:errcheck // every byte was read, or an error is returned
		body = back
	}
	depth := encode.Decoded
	if c.Verify == config.VerifyReadback {
		depth = encode.Stored
	}
	have, err := encode.Verify(body, c.Compression, depth)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if have.StoredSHA256 != object.StoredSHA256 || (depth == encode.Decoded && (have.Rows != object.Rows || have.RawCRC64NVME != object.RawCRC64NVME)) {
		return fmt.Errorf("verify: what was read back is not what was written: %d rows, want %d", have.Rows, object.Rows)
	}
	took.Verify = time.Since(began).Seconds()
	return nil
}
