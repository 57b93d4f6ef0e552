package encode_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/crc64nvme"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/digest"
	"github.com/audit-table-archiver/archiver/internal/encode"
)

var update = flag.Bool("update", false, "write the golden files anew")

// run feeds a stream in pieces of the given size.
func run(t testing.TB, s []byte, o encode.Options, piece int) ([]byte, encode.Object, error) {
	t.Helper()
	var spool bytes.Buffer
	w, err := encode.NewWriter(&spool, o)
	require.NoError(t, err)
	for len(s) > 0 && err == nil {
		n := min(piece, len(s))
		_, err = w.Write(s[:n])
		s = s[n:]
	}
	object, closeErr := w.Close()
	if err != nil {
		require.Equal(t, err, closeErr, "Close gives the error that ended the writer")
	}
	object.Serialize, object.Compress = 0, 0
	return spool.Bytes(), object, closeErr
}

func audit(rows int) stream {
	s := newStream()
	for n := range rows {
		s = auditRow(s, n)
	}
	return s.end()
}

func TestObjectDescribesItsBytes(t *testing.T) {
	t.Parallel()
	const rows = 3000 // several blocks
	var want digest.Digest
	for n := range rows {
		want.Add(digest.Row{TableOID: 16384, Block: uint32(n), Offset: 1, Xmin: 900})
	}
	plain, _, err := run(t, audit(rows), encode.Options{Columns: auditColumns(), Compression: "none"}, math.MaxInt)
	require.NoError(t, err)
	for _, compression := range []string{"gzip", "zstd", "none"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			o := encode.Options{Columns: auditColumns(), Key: []int{1, 0}, Compression: compression}
			stored, object, err := run(t, audit(rows), o, math.MaxInt)
			require.NoError(t, err)
			require.EqualValues(t, rows, object.Rows)
			require.Equal(t, want, object.Digest)
			require.EqualValues(t, len(stored), object.StoredBytes)
			require.Equal(t, sha256.Sum256(stored), object.StoredSHA256)
			require.Equal(t, crc64nvme.Checksum(stored), object.CRC64NVME)
			require.EqualValues(t, len(plain), object.RawBytes)
			require.Equal(t, sha256.Sum256(plain), object.RawSHA256)
			require.Equal(t, `"2024-01-01T00:00:00+00:00" 0`, fmt.Sprintf("%s %s", object.First[0], object.First[1]))
			require.Equal(t, `"2024-01-01T01:08:31.967887+00:00" 2999`, fmt.Sprintf("%s %s", object.Last[0], object.Last[1]))

			for _, piece := range []int{1, 2, 3, 19, 700, 65536} {
				again, same, err := run(t, audit(rows), o, piece)
				require.NoError(t, err)
				require.Equal(t, object, same, "pieces of %d bytes", piece)
				require.True(t, bytes.Equal(stored, again), "pieces of %d bytes", piece)
			}

			want := encode.Content{
				StoredBytes: object.StoredBytes, StoredSHA256: object.StoredSHA256,
				Rows: object.Rows, RawBytes: object.RawBytes, RawCRC64NVME: object.RawCRC64NVME, RawSHA256: object.RawSHA256,
			}
			content, err := encode.Verify(bytes.NewReader(stored), compression, encode.Hashed)
			require.NoError(t, err)
			require.Equal(t, want, content)
			want.RawSHA256 = [32]byte{}
			content, err = encode.Verify(bytes.NewReader(stored), compression, encode.Decoded)
			require.NoError(t, err)
			require.Equal(t, want, content)
			content, err = encode.Verify(bytes.NewReader(stored), compression, encode.Stored)
			require.NoError(t, err)
			require.Equal(t, encode.Content{StoredBytes: object.StoredBytes, StoredSHA256: object.StoredSHA256}, content)

			r, err := encode.NewReader(bytes.NewReader(stored), compression)
			require.NoError(t, err)
			read, err := io.ReadAll(r)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.True(t, bytes.Equal(plain, read))
		})
	}
}

// TestGolden fixes the lines for good, and that objects of earlier releases decode.
func TestGolden(t *testing.T) {
	t.Parallel()
	columns := []encode.Column{
		{Name: "id", Type: encode.TypeInt8},
		{Name: "at", Type: encode.TypeTimestamptz},
		{Name: `we"ird` + "\n", Type: encode.TypeText},
		{Name: "n", Type: encode.TypeNumeric},
		{Name: "f", Type: encode.TypeFloat8},
		{Name: "doc", Type: encode.TypeJSON, OmitNull: true},
		{Name: "day", Type: encode.TypeDate},
		{Name: "raw", Type: encode.TypeBytea},
		{Name: "net", Type: encode.TypeCIDR},
	}
	numeric := []byte{0, 2, 0, 0, 0x40, 0, 0, 6, 0, 12, 13, 72} // -12.3400 00
	s := newStream().
		row(0, be64(1), be64(0), []byte("plain"), numeric, be64(int64(math.Float64bits(0.1))), []byte("{\"a\":\n1}"), be32(0), []byte{0xde, 0xad}, []byte{2, 8, 1, 4, 10, 0, 0, 0}).
		row(1, be64(math.MinInt64), be64(math.MaxInt64), []byte("tab\t \"quoted\" \x01 é \u2028 \x7f"), []byte{0, 0, 0, 0, 0xc0, 0, 0, 0}, be64(int64(math.Float64bits(1e20))),
			nil, be32(math.MaxInt32), []byte{}, []byte{3, 128, 1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}).
		row(2, nil, nil, nil, nil, nil, nil, nil, nil, nil).
		end()
	for _, compression := range []string{"none", "gzip", "zstd"} {
		stored, _, err := run(t, s, encode.Options{Columns: columns, Compression: compression}, math.MaxInt)
		require.NoError(t, err)
		file := filepath.Join("testdata", "golden"+encode.Extension("jsonl", compression))
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o750))
			require.NoError(t, os.WriteFile(file, stored, 0o600))
		}
		kept, err := os.Open(file)
		require.NoError(t, err)
		r, err := encode.NewReader(kept, compression)
		require.NoError(t, err)
		lines, err := io.ReadAll(r)
		require.NoError(t, err)
		want, err := os.ReadFile(filepath.Join("testdata", "golden.jsonl"))
		require.NoError(t, err)
		require.Equal(t, string(want), string(lines), file)
		if compression == "none" {
			require.Equal(t, string(want), string(stored))
		}
		require.NoError(t, r.Close())
		require.NoError(t, kept.Close())
	}
}

func TestGzipHeaderSaysNothing(t *testing.T) {
	t.Parallel()
	stored, _, err := run(t, audit(1), encode.Options{Columns: auditColumns(), Compression: "gzip"}, math.MaxInt)
	require.NoError(t, err)
	require.Equal(t, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}, stored[:8], "no flags, no time")
	require.EqualValues(t, 255, stored[9], "no operating system")
}

func TestOmitNull(t *testing.T) {
	t.Parallel()
	o := encode.Options{Compression: "none", Key: []int{0}, Columns: []encode.Column{
		{Name: "a", Type: encode.TypeJSONB, OmitNull: true}, {Name: "b", Type: encode.TypeJSON, OmitNull: true},
	}}
	s := newStream().row(0, nil, nil).row(1, nil, []byte("null")).row(2, []byte("\x01null"), nil).row(3, []byte("\x011"), []byte(" 2 ")).end()
	stored, object, err := run(t, s, o, 1)
	require.NoError(t, err)
	require.Equal(t, "{}\n{\"b\":null}\n{\"a\":null}\n{\"a\":1,\"b\": 2 }\n", string(stored))
	require.Equal(t, "null", string(object.First[0]))
}

func TestNoRows(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"gzip", "zstd", "none"} {
		stored, object, err := run(t, newStream().end(), encode.Options{Columns: auditColumns(), Compression: compression, Key: []int{0}}, 1)
		require.NoError(t, err)
		require.Zero(t, object.Rows)
		require.Nil(t, object.First)
		require.Nil(t, object.Last)
		content, err := encode.Verify(bytes.NewReader(stored), compression, encode.Hashed)
		require.NoError(t, err)
		require.Zero(t, content.Rows)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	o := encode.Options{Columns: auditColumns(), Compression: "gzip"}
	_, three, err := run(t, audit(3), o, math.MaxInt)
	require.NoError(t, err)

	for piece := range []int{1, 100, math.MaxInt} {
		o.MaxRawBytes = three.RawBytes
		_, object, err := run(t, audit(3), o, piece+1)
		require.NoError(t, err, "exactly the limit fits")
		require.Equal(t, three, object)
		_, _, err = run(t, audit(4), o, piece+1)
		var tooLarge *encode.TooLargeError
		require.ErrorAs(t, err, &tooLarge)
		require.EqualValues(t, 3, tooLarge.Rows)
	}
	o.MaxRawBytes = 1
	_, object, err := run(t, audit(1), o, math.MaxInt)
	require.NoError(t, err, "one row is always accepted")
	require.EqualValues(t, 1, object.Rows)
}

func TestHugeRow(t *testing.T) {
	t.Parallel()
	o := encode.Options{Columns: []encode.Column{{Name: "v", Type: encode.TypeText}}, Compression: "none"}
	huge := bytes.Repeat([]byte("\x01x"), 1<<20)
	for _, piece := range []int{4096, math.MaxInt} {
		stored, _, err := run(t, newStream().row(0, []byte("a")).row(1, huge).row(2, []byte("b")).end(), o, piece)
		require.NoError(t, err)
		require.Equal(t, 3, bytes.Count(stored, []byte("\n")))
		require.Equal(t, 1<<20, bytes.Count(stored, []byte(`\u0001x`)))
	}
}

func TestBadStreams(t *testing.T) {
	t.Parallel()
	o := encode.Options{Compression: "gzip", Columns: []encode.Column{{Name: "id", Type: encode.TypeInt8}, {Name: "doc", Type: encode.TypeJSONB}}}
	good := newStream().row(0, be64(1), []byte("\x01{}"))
	cat := func(parts ...[]byte) stream { return bytes.Join(parts, nil) }
	for name, tc := range map[string]struct {
		s    stream
		want string
	}{
		"empty":            {stream{}, "before its trailer"},
		"text format":      {stream("1\tx\n"), "copy row 1: not a binary copy stream"},
		"header cut":       {stream(streamHeader[:15]), "before its trailer"},
		"oids":             {stream(streamHeader[:12] + "\x01\x00\x00\x00\x00\x00\x00"), "critical flags 0x10000"},
		"extension cut":    {stream(streamHeader[:15] + "\xff\xff\xff\xff" + "\xff\xff"), "before its trailer"},
		"no trailer":       {good, "copy row 2: copy stream ended before its trailer"},
		"half a trailer":   {cat(good, []byte{0xff}), "before its trailer"},
		"field cut":        {good[:len(good)-1], "copy row 1: copy stream ended before its trailer"},
		"after trailer":    {cat(good.end(), []byte{0}), "bytes after the copy trailer"},
		"field count":      {newStream().row(0, be64(1)), "copy row 1: 4 fields, want 5"},
		"negative count":   {cat(good, []byte{0xff, 0xfe}), "copy row 2: -2 fields"},
		"negative length":  {cat(good, be16(5), be32(0xfffffffe)), `copy row 2: column "tableoid": field length -2`},
		"huge length":      {cat(good, be16(5), be32(4), be32(1), be32(0x7fffffff)), `copy row 2: column "ctid": field length 2147483647`},
		"null tableoid":    {cat(good, be16(5), be32(0xffffffff), bytes.Repeat(be32(0xffffffff), 4)), `column "tableoid": -1 bytes, want 4`},
		"int8 of 4 bytes":  {newStream().row(0, be32(1), nil), `copy row 1: column "id": 4 bytes, want 8`},
		"jsonb version":    {newStream().row(0, nil, []byte("\x02{}")), `column "doc": not a jsonb value of version 1`},
		"jsonb empty":      {newStream().row(0, nil, []byte{}), `column "doc": not a jsonb value`},
		"claimed gigabyte": {cat(good, be16(5), be32(4), be32(1), be32(1<<30)), "before its trailer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var whole string
			for _, piece := range []int{math.MaxInt, 1} {
				_, object, err := run(t, tc.s, o, piece)
				require.ErrorContains(t, err, tc.want)
				require.Zero(t, object)
				if strings.Contains(tc.want, "before its trailer") {
					require.ErrorIs(t, err, encode.ErrTruncated)
				}
				if whole == "" {
					whole = err.Error()
				}
				require.Equal(t, whole, err.Error())
			}
		})
	}
}

func TestExtensionIsSkipped(t *testing.T) {
	t.Parallel()
	o := encode.Options{Compression: "none", Columns: []encode.Column{{Name: "id", Type: encode.TypeInt2}}}
	s := bytes.Join([][]byte{[]byte(streamHeader[:15]), be32(3), []byte("abc"), newStream().row(0, be16(7)).end()[len(streamHeader):]}, nil)
	for _, piece := range []int{math.MaxInt, 1, 17} {
		stored, _, err := run(t, s, o, piece)
		require.NoError(t, err)
		require.Equal(t, "{\"id\":7}\n", string(stored))
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	good := encode.Options{Columns: auditColumns(), Compression: "gzip"}
	for want, change := range map[string]func(*encode.Options){
		"no columns":             func(o *encode.Options) { o.Columns = nil },
		`column "x" has no type`: func(o *encode.Options) { o.Columns = []encode.Column{{Name: "x"}} },
		`unknown compression ""`: func(o *encode.Options) { o.Compression = "" },
		"gzip level 10":          func(o *encode.Options) { o.Level = 10 },
		"gzip level -1":          func(o *encode.Options) { o.Level = -1 },
		"zstd level 23":          func(o *encode.Options) { o.Compression, o.Level = "zstd", 23 },
		"no column 12":           func(o *encode.Options) { o.Key = []int{0, 12} },
	} {
		o := good
		change(&o)
		_, err := encode.NewWriter(io.Discard, o)
		require.ErrorContains(t, err, want)
	}
	for compression, levels := range map[string]int{"gzip": 9, "zstd": 22, "none": 1} {
		for level := range levels + 1 {
			o := good
			o.Compression, o.Level = compression, level
			stored, object, err := run(t, audit(50), o, math.MaxInt)
			require.NoError(t, err)
			content, err := encode.Verify(bytes.NewReader(stored), compression, encode.Hashed)
			require.NoError(t, err)
			require.Equal(t, object.RawSHA256, content.RawSHA256)
		}
	}
}

// fullDisk takes some bytes and then fails.
type fullDisk struct{ left int }

var errNoSpace = errors.New("no space left on device")

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.left {
		return d.left, errNoSpace
	}
	d.left -= len(p)
	return len(p), nil
}

func TestSpoolFails(t *testing.T) {
	t.Parallel()
	for _, left := range []int{0, 100_000, 300_000} {
		for _, compression := range []string{"gzip", "zstd", "none"} {
			w, err := encode.NewWriter(&fullDisk{left}, encode.Options{Columns: auditColumns(), Compression: compression, Level: 0})
			require.NoError(t, err)
			s := audit(8_000)
			for len(s) > 0 && err == nil {
				n := min(4096, len(s))
				_, err = w.Write(s[:n])
				s = s[n:]
			}
			if err != nil {
				require.ErrorIs(t, err, errNoSpace)
			}
			_, err = w.Close()
			require.ErrorIs(t, err, errNoSpace)
			require.ErrorContains(t, err, "write spool")
			_, err = w.Close()
			require.ErrorIs(t, err, errNoSpace)
			_, err = w.Write([]byte{0})
			require.Error(t, err)
		}
	}
}

// TestRowPathDoesNotAllocate counts the whole process's allocations, so it is not
// parallel to others.
func TestRowPathDoesNotAllocate(t *testing.T) {
	w, err := encode.NewWriter(io.Discard, encode.Options{Columns: auditColumns(), Compression: "none", Key: []int{1, 0}})
	require.NoError(t, err)
	_, err = w.Write([]byte(streamHeader))
	require.NoError(t, err)
	row := auditRow(nil, 7)
	write := func() { _, err = w.Write(row) }
	for range 5000 { // until every buffer has been used once
		write()
	}
	require.Zero(t, testing.AllocsPerRun(5000, write))
	require.NoError(t, err)
	_, err = w.Close()
	require.ErrorIs(t, err, encode.ErrTruncated)
}
