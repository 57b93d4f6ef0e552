package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5" //nolint:gosec // compared with PostgreSQL's md5(); no secret depends on it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
)

// takeOriginals has PostgreSQL hash every row, before the archiver has seen any.
func (s *story) takeOriginals(ctx context.Context) error {
	return s.execute(ctx, "CREATE SCHEMA demo",
		"CREATE TABLE demo.original AS SELECT id, md5(row_to_json(a)::text)::uuid AS hash FROM public.audit_logs AS a")
}

// prove counts where each row is and fails if one is not in exactly one place.
func (s *story) prove(ctx context.Context) error {
	began := time.Now()
	var cutoff time.Time
	if err := s.source.QueryRow(ctx, "SELECT now() - make_interval(days => $1)", retentionDays).Scan(&cutoff); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	a := newAccount(s.Rows, cutoff)
	if err := s.eachRow(ctx, "SELECT id, hash, 'epoch'::timestamptz FROM demo.original",
		func(id int64, h hash, _ time.Time) { a.originals[id-1] = h }); err != nil {
		return err
	}
	if err := s.eachRow(ctx, "SELECT id, md5(row_to_json(a)::text)::uuid, created_at FROM public.audit_logs AS a", a.foundInTable); err != nil {
		return err
	}
	contents, err := s.readBucket(ctx, &a)
	if err != nil {
		return err
	}
	s.done(began, "read the table, and all %d objects that have a manifest: SHA-256, gunzip, each line as JSON", contents.objects)
	v := a.verdict()
	s.linef("")
	s.linef("%-44s%12s", "rows before", humanize.Comma(s.Rows))
	s.linef("%-44s%12s", "  of them in the table now", humanize.Comma(a.tableRows))
	s.linef("%-44s%12s", "  of them in objects now", humanize.Comma(a.objectRows))
	s.linef("%-44s%12s", "rows in both places", humanize.Comma(v.Both))
	s.linef("%-44s%12s", "rows in neither", humanize.Comma(v.Neither))
	s.linef("%-44s%12s", "rows twice in one place", humanize.Comma(v.Twice))
	s.linef("%-44s%12s", "rows whose content differs from before", humanize.Comma(v.Changed))
	s.linef("%-44s%12s", "rows that were not there before", humanize.Comma(v.Unknown))
	s.linef("%-44s%12s", "rows archived before their time", humanize.Comma(v.Young))
	if !a.youngestArchived.IsZero() {
		s.linef("youngest row archived %s, oldest row left %s", a.youngestArchived.UTC().Format(time.DateTime), a.oldestLeft.UTC().Format(time.DateTime))
	}
	if err := v.err(); err != nil {
		return err
	}
	if a.objectRows == 0 {
		return fmt.Errorf("%w: no row was archived", ErrProof)
	}
	s.linef("")
	s.linef("%s", s.paint(bold, "proven: every row is in exactly one place, and none has changed"))
	s.archived, s.contents = a, contents
	return nil
}

// eachRow calls found with each row of a query that gives id, hash and time.
func (s *stage) eachRow(ctx context.Context, sql string, found func(int64, hash, time.Time)) error {
	rows, err := s.source.Query(ctx, sql) //nolint:rowserrcheck // ForEachRow checks it
	if err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	var (
		id int64
		h  hash
		at time.Time
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &h, &at}, func() error { found(id, h, at); return nil }); err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	return nil
}

// manifest is what the proof needs of the document beside each committed object.
type manifest struct {
	Object    string `json:"object_key"`
	VersionID string `json:"version_id"`
	Rows      int64  `json:"rows"`
	SHA256    string `json:"sha256"`
}

// readBucket enters the lines of every object that has a manifest.
func (s *story) readBucket(ctx context.Context, a *account) (contents, error) {
	b := openBucket(s.s3)
	c, err := b.list(ctx)
	if err != nil {
		return c, err
	}
	for _, entry := range c.entries {
		if !strings.HasSuffix(entry.key, manifestSuffix) {
			continue
		}
		body, err := b.get(ctx, entry.key, "")
		if err != nil {
			return c, err
		}
		var m manifest
		if err := json.Unmarshal(body, &m); err != nil {
			return c, fmt.Errorf("read the manifest %s: %w", entry.key, err)
		}
		if body, err = b.get(ctx, m.Object, m.VersionID); err != nil {
			return c, err
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != m.SHA256 {
			return c, fmt.Errorf("%w: object %s has SHA-256 %x, its manifest says %s", ErrProof, m.Object, sum, m.SHA256)
		}
		lines, err := readLines(body, a.foundInObject)
		if err != nil {
			return c, fmt.Errorf("read the object %s: %w", m.Object, err)
		}
		if int64(len(lines)) != m.Rows {
			return c, fmt.Errorf("%w: object %s has %d rows, its manifest says %d", ErrProof, m.Object, len(lines), m.Rows)
		}
		c.objects++
		if len(lines) > 0 {
			c.samples = append(c.samples, lines[len(lines)/2])
		}
	}
	return c, nil
}

// readLines enters each line of a compressed object and returns them all.
func readLines(compressed []byte, found func(int64, hash, time.Time)) ([]string, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	var lines []string
	r := bufio.NewReader(z)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return lines, nil
		}
		if err != nil { // also a last line without its end
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		}
		line = line[:len(line)-1]
		id, at, err := identify(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		}
		found(id, md5.Sum(line), at) //nolint:gosec // see the import
		lines = append(lines, string(line))
	}
}

// identify reads a line as any JSON reader would. The id is taken as its text: as a
// float64, a large one would change.
func identify(line []byte) (id int64, at time.Time, err error) {
	var row struct {
		ID        json.RawMessage `json:"id"`
		CreatedAt time.Time       `json:"created_at"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return 0, at, err
	}
	if id, err = strconv.ParseInt(string(row.ID), 10, 64); err != nil {
		return 0, at, fmt.Errorf("id: %w", err)
	}
	if row.CreatedAt.IsZero() {
		return 0, at, errors.New("created_at is missing")
	}
	return id, row.CreatedAt, nil
}
