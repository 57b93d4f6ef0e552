package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/ledger"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
)

// What can be said about the rows of an orphan.
const (
	rowsInTable = "in table"
	rowsAbsent  = "ABSENT from table"
)

// orphan is an object that no archived batch refers to; a line of ls --orphans --json.
type orphan struct {
	Key          string  `json:"key"`
	Bytes        int64   `json:"bytes"`
	LastModified string  `json:"last_modified"`
	State        string  `json:"state"`         // in progress, discarded, superseded, unknown
	Rows         *string `json:"rows"`          // in table, ABSENT from table; null where they were not looked up
	BatchID      *int64  `json:"batch_id"`      // by the ledger, else by the key; null if neither says
	CommittedKey *string `json:"committed_key"` // the object that the batch was archived in since
	Problem      *string `json:"problem"`       // why the rows could not be looked up
}

// listedPage is how many objects are looked up in the ledger at a time.
const listedPage = 500

func (c *cli) lsOrphans(ctx context.Context, a *app, s selection, limit int) error {
	if err := errors.Join(a.openStore(ctx), a.openSources(ctx, "archiver ls")); err != nil {
		return err
	}
	prefixes := []string{path.Join(a.cfg.S3.Prefix, "/")}
	if s != (selection{}) {
		tables, err := a.tables(s)
		if err != nil {
			return err
		}
		prefixes = prefixes[:0]
		for _, t := range tables {
			prefixes = append(prefixes, layout.TablePrefix(a.cfg.S3.Prefix, t.Database, t.Schema, t.Name))
		}
	}
	search := &orphanSearch{
		app: a, limit: limit, down: map[string]error{}, own: path.Join(a.cfg.S3.Prefix, ".archiver") + "/", bench: a.benchFolder(),
		list: c.lines("KEY\tSIZE\tMODIFIED\tSTATE\tROWS\tREMARK"),
	}
	for _, prefix := range prefixes {
		prefix = strings.TrimLeft(prefix, "/")
		if prefix != "" {
			prefix += "/"
		}
		if err := search.walk(ctx, prefix); err != nil {
			return err
		}
	}
	if err := search.list.finish("every object belongs to an archived batch"); err != nil {
		return err
	}
	if search.absent > 0 {
		c.notef("%s rows of which none is left in the table: keep them, each may be the only copy of its rows\n",
			plural(search.absent, "object holds", "objects hold"))
	}
	if search.problems > 0 {
		return &exitError{
			code: exitPartly, err: fmt.Errorf("the rows of %s could not be looked up", plural(search.problems, "object", "objects")),
			hint: "the reason stands beside each; run again when it is mended",
		}
	}
	return nil
}

// orphanSearch goes through a listing, a page at a time.
type orphanSearch struct {
	app              *app
	own, bench       string // folders of the archiver's own objects, and of what `archiver bench` left
	limit            int
	list             *lines
	absent, problems int64
	down             map[string]error // databases that could not be reached; each is tried once
}

func (s *orphanSearch) full() bool { return s.limit > 0 && s.list.count >= s.limit }

func (s *orphanSearch) walk(ctx context.Context, prefix string) error {
	var page []objstore.Object
	for object, err := range s.app.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(object.Key, s.own) || strings.HasPrefix(object.Key, s.bench) {
			continue
		}
		if page = append(page, object); len(page) == listedPage {
			if err := s.look(ctx, page); err != nil {
				return err
			}
			page = page[:0]
		}
		if s.full() {
			return nil
		}
	}
	return s.look(ctx, page)
}

// look sorts a page of the listing by what the ledger knows. A manifest belongs to
// the object beside it.
func (s *orphanSearch) look(ctx context.Context, page []objstore.Object) error {
	var keys []string
	for _, o := range page {
		keys = append(keys, recordKeys(o.Key)...)
	}
	known, err := s.app.ledger.KeyRecords(ctx, keys)
	if err != nil {
		return err
	}
	for _, o := range page {
		if s.full() {
			return nil
		}
		var record ledger.KeyRecord
		for _, key := range recordKeys(o.Key) {
			if r, ok := known[key]; ok {
				record = r
				break
			}
		}
		if record.State == ledger.ObjectCommitted {
			continue
		}
		if err := s.report(ctx, o, record); err != nil {
			return err
		}
	}
	return nil
}

// recordKeys are the object keys that the ledger may know a listed key by.
func recordKeys(key string) []string {
	stem, _, ok := layout.Parse(key)
	if !ok || !layout.IsManifest(key) {
		return []string{key}
	}
	var keys []string
	for _, compression := range []string{encode.CompressionGzip, encode.CompressionZstd, encode.CompressionNone} {
		keys = append(keys, stem+encode.Extension(config.FormatJSONL, compression))
	}
	return keys
}

func (s *orphanSearch) report(ctx context.Context, o objstore.Object, record ledger.KeyRecord) error {
	line := orphan{Key: o.Key, Bytes: o.Size, LastModified: stamp(o.LastModified), State: "unknown"}
	table, configured := s.app.tableOfKey(o.Key)
	switch record.State {
	case ledger.ObjectVerified:
		line.State = "in progress"
	case ledger.ObjectDiscarded, ledger.ObjectSuperseded:
		line.State = string(record.State)
	case ledger.ObjectCommitted:
	}
	if record.State != "" {
		line.BatchID, line.CommittedKey = &record.BatchID, nullable(record.CommittedKey)
	} else if _, id, ok := layout.Parse(o.Key); ok && configured {
		committed, err := s.app.ledger.CommittedKey(ctx, ledger.Filter{Database: table.Database, Schema: table.Schema, Table: table.Name}, id)
		if err != nil {
			return err
		}
		line.BatchID, line.CommittedKey = &id, nullable(committed)
	}
	_, ofRows := encode.CompressionOf(o.Key)
	if record.State != ledger.ObjectVerified && ofRows && configured {
		rows, err := "", s.down[table.Database]
		if err == nil {
			rows, err = s.app.rowsOf(ctx, o.Key, table)
		}
		var storage *objstore.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &storage) && objstore.IsUnavailable(err):
			return err
		case err != nil:
			if storage == nil && source.Classify(err) == source.Unavailable {
				s.down[table.Database] = err
			}
			s.problems++
			line.Problem = nullable(err.Error())
		default:
			line.Rows = &rows
		}
	}
	if line.Rows != nil && *line.Rows == rowsAbsent {
		s.absent++
	}
	return s.list.add(line, line.Key, bytesText(line.Bytes), line.LastModified, line.State, rowsCell(line), line.remark(configured))
}

func rowsCell(o orphan) string {
	if o.Rows == nil {
		return "-"
	}
	return *o.Rows
}

// remark is what a person should know about an orphan. It never says that one can go.
func (o orphan) remark(configured bool) string {
	switch {
	case o.Problem != nil:
		return "not looked up: " + clip(*o.Problem, 200)
	case o.Rows != nil && *o.Rows == rowsAbsent && o.CommittedKey != nil:
		return fmt.Sprintf("keep it: may be the only copy of some rows; batch %d was archived as %s", *o.BatchID, *o.CommittedKey)
	case o.Rows != nil && *o.Rows == rowsAbsent:
		return "KEEP IT: MAY BE THE ONLY COPY of its rows"
	case o.State == "in progress":
		return "of batch " + strconv.FormatInt(*o.BatchID, 10)
	case !configured:
		return "in no configured table's folder"
	}
	return ""
}

// tableOfKey finds the configured table in whose folder a key is.
func (a *app) tableOfKey(key string) (config.Table, bool) {
	for _, d := range a.cfg.Databases {
		for _, t := range d.Tables {
			if strings.HasPrefix(key, layout.TablePrefix(a.cfg.S3.Prefix, t.Database, t.Schema, t.Name)+"/") {
				return t, true
			}
		}
	}
	return config.Table{}, false
}

// rowsOf says whether the table still has a row with the key of one of the
// object's. The object is copied to the spool first: no transaction is open on the
// source while the network is read.
func (a *app) rowsOf(ctx context.Context, key string, table config.Table) (_ string, err error) {
	f, err := os.CreateTemp(a.cfg.Worker.SpoolDir, "archiver-spool-")
	if err != nil {
		return "", fmt.Errorf("create the spool file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from when it matters
	if err := os.Remove(f.Name()); err != nil {
		return "", fmt.Errorf("unlink the spool file: %w", err)
	}
	body, _, err := a.store.Get(ctx, key, "")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("rewind the spool: %w", err)
	}
	compression, _ := encode.CompressionOf(key)
	decoded, err := encode.NewReader(f, compression)
	if err != nil {
		return "", fmt.Errorf("it cannot be decoded: %v", err) //nolint:errorlint // see rowLines
	}
	defer decoded.Close() //nolint:errcheck // it only frees memory
	left, err := a.sources[table.Database].AnyLeft(ctx, table, &rowLines{in: bufio.NewReaderSize(decoded, 1<<16)})
	if err != nil {
		return "", err
	}
	if left {
		return rowsInTable, nil
	}
	return rowsAbsent, nil
}

// maxLineBytes bounds the memory that an object of unknown origin can take.
const maxLineBytes = 256 << 20

// rowLines implements source.RowReader.
type rowLines struct {
	in   *bufio.Reader
	line []byte
}

// Next implements source.RowReader. The cause of a failure is not wrapped: the
// early end of an object would pass for that of a connection.
func (r *rowLines) Next() ([]byte, error) {
	r.line = r.line[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		r.line = append(r.line, part...)
		switch {
		case err == nil:
			return r.line, nil
		case len(r.line) > maxLineBytes:
			return nil, fmt.Errorf("it has a row of more than %d bytes", maxLineBytes)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(r.line) == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			return nil, errors.New("its last line has no end")
		default:
			return nil, fmt.Errorf("it cannot be decoded: %v", err) //nolint:errorlint // see above
		}
	}
}
