package encode

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/audit-table-archiver/archiver/internal/digest"
)

// Options describe the COPY that a Writer reads and the object that it makes.
type Options struct {
	// Columns follow the leading fields in the COPY's select list, in table order.
	Columns []Column

	// Row says which fields lead the COPY's select list, to name the row version.
	Row digest.Columns

	// Key are indexes into Columns whose values Object reports of the first and the
	// last row: the timestamp column, then the primary key.
	Key []int

	// Compression is gzip, zstd or none. Level is 1 to 9 for gzip and 1 to 22 for zstd
	// (in zstd's own numbering, mapped to the nearest of four); 0 is the default.
	Compression string
	Level       int

	// MaxRawBytes ends the object before the row that would make it longer than this
	// many bytes of JSONL. 0 means no limit. One row is accepted whatever its length.
	MaxRawBytes int64
}

// Object is what a Writer made.
type Object struct {
	Rows, RawBytes, StoredBytes int64
	RawSHA256, StoredSHA256     [32]byte
	CRC64NVME, RawCRC64NVME     uint64 // of the stored bytes, and of the rows
	Digest                      digest.Digest

	// The values of Options.Key as they are in the line; nil if there are no rows.
	First, Last []json.RawMessage

	// Time spent making lines (an estimate from a sample of the calls, waiting not
	// counted), and compressing, hashing and writing to the spool. They overlap.
	Serialize, Compress time.Duration
}

// TooLargeError ends a Writer whose next row would exceed MaxRawBytes. The first Rows
// rows fit; the object is not complete and must be made again from those rows alone.
type TooLargeError struct {
	Rows        int64
	MaxRawBytes int64
}

// Error says how many rows fitted and what the limit is.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the row after %d would exceed the limit of %d encoded bytes", e.Rows, e.MaxRawBytes)
}

// Writer turns a binary COPY stream into one object's bytes. It is an io.Writer for
// the stream and not safe for concurrent use. Close must be called in every case.
type Writer struct {
	columns     []column
	leading     digest.Columns
	lead        int // how many these are
	maxRawBytes int64
	err         error // the first error; final

	framer  framer
	pending []byte // an incomplete tuple or header from the calls before

	out         *pipeline
	buf         []byte // the block being filled: whole lines only
	flushed     int64  // raw bytes handed over before it
	rows        int64
	digest      digest.Digest
	raw         hash.Hash
	rawCRC      hash.Hash64
	key         []keyValue
	first, last []json.RawMessage

	closed    bool
	object    Object
	serialize stopwatch
}

// column is a Column ready for the row path.
type column struct {
	name     string
	prefix   []byte // a comma, the name as a JSON string, a colon
	typ      Type
	omitNull bool
	inKey    bool
}

// keyValue is the place of a key column's value in buf, of the row encoded last.
type keyValue struct{ column, start, end int }

// NewWriter returns a Writer that writes an object to spool and starts its compressing
// goroutine. It does not close spool.
func NewWriter(spool io.Writer, o Options) (*Writer, error) {
	w := &Writer{maxRawBytes: o.MaxRawBytes, raw: sha256.New(), rawCRC: crc64nvme.New()}
	if err := w.prepare(o); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var err error
	if w.out, err = newPipeline(spool, o.Compression, o.Level); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	w.buf = w.out.block()
	return w, nil
}

// prepare checks the columns and the key and makes ready what each row needs of them.
func (w *Writer) prepare(o Options) error {
	if len(o.Columns) == 0 {
		return errors.New("no columns")
	}
	names := o.Row.Names()
	w.leading, w.lead = o.Row, len(names)
	for _, c := range o.Columns {
		if c.Type == 0 || c.Type >= typeEnd {
			return fmt.Errorf("column %q has no type", c.Name)
		}
		prefix := append(appendString([]byte{','}, []byte(c.Name)), ':')
		w.columns = append(w.columns, column{name: c.Name, prefix: prefix, typ: c.Type, omitNull: c.OmitNull})
		names = append(names, c.Name)
	}
	for _, i := range o.Key {
		if i < 0 || i >= len(o.Columns) {
			return fmt.Errorf("no column %d for the key", i)
		}
		w.columns[i].inKey = true
		w.key = append(w.key, keyValue{column: i})
	}
	w.framer = newFramer(names)
	return nil
}

// Write takes the next piece of the stream. Pieces may be cut anywhere; one that holds
// whole tuples is encoded in place, without a copy. It returns *TooLargeError where the
// object is full, and an error naming the row and column where the stream is not what
// Options describe.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.closed {
		return 0, errors.New("write after close")
	}
	w.serialize.begin(len(p))
	defer w.serialize.end()
	data := p
	if len(w.pending) > 0 {
		w.pending = append(w.pending, p...)
		data = w.pending
	}
	rest, err := w.consume(data)
	if err != nil {
		w.err = err
		return 0, err
	}
	w.pending = append(w.pending[:0], rest...) // rest may be the tail of pending itself
	if len(rest) == 0 && cap(w.pending) > keepBytes {
		w.pending = nil
	}
	return len(p), nil
}

// consume encodes every whole tuple in data and returns what is left over.
func (w *Writer) consume(data []byte) ([]byte, error) {
	for {
		n, what, err := w.framer.next(data)
		if err != nil {
			return nil, fmt.Errorf("copy row %d: %w", w.rows+1, err)
		}
		switch what {
		case foundNothing:
			return data, nil
		case foundTuple:
			if err := w.encode(data[:n]); err != nil {
				return nil, err
			}
		case foundOther:
		}
		data = data[n:]
	}
}

// encode appends one row's line to the block and counts the row.
func (w *Writer) encode(tuple []byte) error {
	version, err := w.version(tuple)
	if err != nil {
		return fmt.Errorf("copy row %d: %w", w.rows+1, err)
	}
	start := len(w.buf)
	line, err := w.appendLine(w.buf, tuple)
	if err != nil {
		return fmt.Errorf("copy row %d: %w", w.rows+1, err)
	}
	if w.maxRawBytes > 0 && w.rows > 0 && w.flushed+int64(len(line)) > w.maxRawBytes {
		w.buf = line[:start]
		return &TooLargeError{Rows: w.rows, MaxRawBytes: w.maxRawBytes}
	}
	w.buf = line
	w.digest.Add(version)
	w.rows++
	if w.rows == 1 {
		w.first = w.copyKey(nil)
	}
	if len(w.buf) >= blockBytes {
		return w.flush()
	}
	return nil
}

// version reads the leading fields.
func (w *Writer) version(tuple []byte) (digest.Row, error) {
	var values [digest.MaxColumns][]byte
	for i, f := range w.framer.fields[:w.lead] {
		if f.length >= 0 {
			values[i] = tuple[f.start : f.start+f.length]
		}
	}
	return w.leading.Row(values[:w.lead])
}

// appendLine appends the row's object and a line feed. Each key starts with a comma;
// the first of the line is turned into the opening brace.
func (w *Writer) appendLine(dst, tuple []byte) ([]byte, error) {
	start := len(dst)
	for i := range w.columns {
		c := &w.columns[i]
		f := w.framer.fields[w.lead+i]
		if f.length < 0 && c.omitNull {
			if c.inKey {
				w.setKey(i, 0, 0)
			}
			continue
		}
		dst = append(dst, c.prefix...)
		valueStart := len(dst)
		if f.length < 0 {
			dst = append(dst, "null"...)
		} else {
			var err error
			if dst, err = appendValue(dst, c.typ, tuple[f.start:f.start+f.length]); err != nil {
				return nil, fmt.Errorf("column %q: %w", c.name, err)
			}
		}
		if c.inKey {
			w.setKey(i, valueStart, len(dst))
		}
	}
	if len(dst) == start {
		dst = append(dst, ',') // every column was left out
	}
	dst[start] = '{'
	return append(dst, '}', '\n'), nil
}

func (w *Writer) setKey(column, start, end int) {
	for i := range w.key {
		if w.key[i].column == column {
			w.key[i].start, w.key[i].end = start, end
		}
	}
}

// copyKey copies the key of the row encoded last out of buf, reusing dst.
func (w *Writer) copyKey(dst []json.RawMessage) []json.RawMessage {
	if dst == nil {
		dst = make([]json.RawMessage, len(w.key))
	}
	for i, k := range w.key {
		dst[i] = append(dst[i][:0], w.buf[k.start:k.end]...)
		if len(dst[i]) == 0 {
			dst[i] = append(dst[i], "null"...)
		}
	}
	return dst
}

// flush hands the block to the compressor and takes an empty one.
func (w *Writer) flush() error {
	if w.out.failed.Load() {
		return w.out.err // set before failed was, and final
	}
	if len(w.buf) == 0 {
		return nil
	}
	w.serialize.pause()
	hashing := time.Now()
	w.raw.Write(w.buf) // a hash never fails
	_, _ = w.rawCRC.Write(w.buf)
	w.serialize.exact += time.Since(hashing)
	w.last = w.copyKey(w.last)
	w.flushed += int64(len(w.buf))
	w.out.send(w.buf)
	w.buf = w.out.block()
	w.serialize.resume()
	return nil
}

// Close ends the object and stops the goroutine, in any case. It returns the error that
// ended the Writer, or ErrTruncated if the stream's trailer was not seen; what is in
// the spool is then of no use. Calling it again gives the same result.
func (w *Writer) Close() (Object, error) {
	if w.closed {
		return w.object, w.err
	}
	w.closed = true
	if w.err == nil && w.framer.state != atEnd {
		w.err = fmt.Errorf("copy row %d: %w", w.rows+1, ErrTruncated)
	}
	if w.err == nil {
		w.err = w.flush()
	}
	if err := w.out.close(w.err != nil); err != nil {
		w.err = err
	}
	if w.err != nil {
		return Object{}, w.err
	}
	w.object = Object{
		Rows: w.rows, RawBytes: w.flushed, StoredBytes: w.out.stored.bytes,
		CRC64NVME: w.out.stored.crc.Sum64(), RawCRC64NVME: w.rawCRC.Sum64(), Digest: w.digest,
		First: w.first, Last: w.last,
		Serialize: w.serialize.total(), Compress: w.out.busy,
	}
	w.raw.Sum(w.object.RawSHA256[:0])
	w.out.stored.sha.Sum(w.object.StoredSHA256[:0])
	return w.object, nil
}

// Rows is the number of rows written so far.
func (w *Writer) Rows() int64 { return w.rows }
