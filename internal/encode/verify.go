package encode

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/minio/crc64nvme"
)

// Depth says how closely Verify looks at an object.
type Depth int

// Each looks at what the one before does, and more.
const (
	Stored  Depth = iota // read every byte, hash them
	Decoded              // decompress them, count the rows
	Hashed               // take the SHA-256 of the rows, too: a fifth more work
)

// Content is what was found in an object.
type Content struct {
	StoredBytes  int64
	StoredSHA256 [32]byte

	// Of the rows inside; zero unless Decoded.
	Rows, RawBytes int64
	RawCRC64NVME   uint64
	RawSHA256      [32]byte // zero unless Hashed
}

// Verify reads an object to its end and reports what is in it, in bounded memory. Decoded,
// its rows are known to be readable. A truncated or damaged object, one with anything
// behind the compressed stream, and one whose last line is not ended are errors; whether
// the content is the expected one is for the caller to compare.
func Verify(r io.Reader, compression string, depth Depth) (Content, error) {
	stored := meter{r: r, sha: sha256.New()}
	if depth == Stored {
		if err := drain(&stored, func([]byte) {}); err != nil {
			return Content{}, fmt.Errorf("read object: %w", err)
		}
		return Content{StoredBytes: stored.bytes, StoredSHA256: sum(stored.sha)}, nil
	}
	rows, err := NewReader(&stored, compression)
	if err != nil {
		return Content{}, fmt.Errorf("decode object: %w", err)
	}
	defer rows.Close() //nolint:errcheck // every byte has been read by then; it only frees memory
	var c Content
	sha, crc, last := sha256.New(), crc64nvme.New(), byte('\n')
	err = drain(rows, func(p []byte) {
		if depth == Hashed {
			sha.Write(p) // a hash never fails
		}
		_, _ = crc.Write(p)
		c.Rows += int64(bytes.Count(p, []byte{'\n'}))
		c.RawBytes += int64(len(p))
		last = p[len(p)-1]
	})
	if err == nil && last != '\n' {
		err = errOpenLine
	}
	if err != nil {
		return Content{}, fmt.Errorf("decode object at row %d: %w", c.Rows+1, err)
	}
	c.StoredBytes, c.StoredSHA256, c.RawCRC64NVME = stored.bytes, sum(stored.sha), crc.Sum64()
	if depth == Hashed {
		c.RawSHA256 = sum(sha)
	}
	return c, nil
}

var errOpenLine = errors.New("the last line has no line feed")

// meter counts and hashes what is read through it.
type meter struct {
	r     io.Reader
	sha   hash.Hash
	bytes int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.sha.Write(p[:n]) // a hash never fails
	m.bytes += int64(n)
	return n, err
}

// drain reads to the end and gives take each piece, none of them empty.
func drain(r io.Reader, take taker) error {
	if whole, ok := r.(io.WriterTo); ok {
		_, err := whole.WriteTo(take)
		return err
	}
	buf := make([]byte, readAhead)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			take(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// taker is a writer that cannot fail.
type taker func([]byte)

func (t taker) Write(p []byte) (int, error) {
	if len(p) > 0 {
		t(p)
	}
	return len(p), nil
}

func sum(h hash.Hash) (s [32]byte) {
	h.Sum(s[:0])
	return s
}
