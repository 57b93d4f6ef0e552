package encode

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Content is what was found in an object.
type Content struct {
	StoredBytes  int64
	StoredSHA256 [32]byte

	// Of the rows inside; zero unless decoding was asked for.
	Rows, RawBytes int64
	RawSHA256      [32]byte
}

// Verify reads an object to its end and reports what is in it, in bounded memory. With
// decode it also decompresses, so that the rows are known to be readable. A truncated
// or damaged object, one with anything behind the compressed stream, and one whose last
// line is not ended are errors; whether the content is the expected one is for the
// caller to compare.
func Verify(r io.Reader, compression string, decode bool) (Content, error) {
	stored := newMeter(r)
	if !decode {
		if err := stored.drain(); err != nil {
			return Content{}, fmt.Errorf("read object: %w", err)
		}
		return Content{StoredBytes: stored.bytes, StoredSHA256: stored.sum()}, nil
	}
	rows, err := NewReader(stored, compression)
	if err != nil {
		return Content{}, fmt.Errorf("decode object: %w", err)
	}
	defer rows.Close() //nolint:errcheck // every byte has been read by then; it only frees memory
	raw := newMeter(rows)
	if err := raw.drain(); err != nil {
		return Content{}, fmt.Errorf("decode object at row %d: %w", raw.lines+1, err)
	}
	if raw.bytes > 0 && raw.last != '\n' {
		return Content{}, fmt.Errorf("decode object at row %d: %w", raw.lines+1, errOpenLine)
	}
	return Content{
		StoredBytes: stored.bytes, StoredSHA256: stored.sum(),
		Rows: raw.lines, RawBytes: raw.bytes, RawSHA256: raw.sum(),
	}, nil
}

var errOpenLine = errors.New("the last line has no line feed")

// meter counts and hashes what is read through it.
type meter struct {
	r            io.Reader
	sha          hash.Hash
	bytes, lines int64
	last         byte
}

func newMeter(r io.Reader) *meter { return &meter{r: r, sha: sha256.New()} }

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if got := p[:n]; len(got) > 0 {
		m.sha.Write(got) // a hash never fails
		m.bytes += int64(n)
		m.last = got[len(got)-1]
	}
	return n, err
}

// drain reads to the end and counts the lines on the way.
func (m *meter) drain() error {
	buf := make([]byte, readAhead)
	for {
		n, err := m.Read(buf)
		m.lines += int64(bytes.Count(buf[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *meter) sum() (s [32]byte) {
	m.sha.Sum(s[:0])
	return s
}
