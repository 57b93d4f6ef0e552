package encode_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
)

// FuzzWriter feeds arbitrary bytes: no panic, the same outcome whatever the pieces, and
// what is accepted is lines that read back.
func FuzzWriter(f *testing.F) {
	f.Add([]byte(audit(3)), uint64(1), int64(0))
	f.Add([]byte(newStream().end()), uint64(2), int64(10))
	f.Add([]byte(audit(3))[:300], uint64(3), int64(500))
	f.Fuzz(func(t *testing.T, s []byte, seed uint64, limit int64) {
		o := encode.Options{Columns: auditColumns(), Key: []int{1, 0}, Compression: "none", MaxRawBytes: limit}
		stored, object, err := run(t, s, o, len(s)+1)

		var spool bytes.Buffer
		w, newErr := encode.NewWriter(&spool, o)
		require.NoError(t, newErr)
		r := rand.New(rand.NewPCG(seed, 1))
		var pieceErr error
		for len(s) > 0 && pieceErr == nil {
			n := min(len(s), r.IntN(1<<r.IntN(10)))
			_, pieceErr = w.Write(s[:n])
			s = s[n:]
		}
		again, pieceErr := w.Close()
		again.Serialize, again.Compress = 0, 0
		require.Equal(t, err, pieceErr)
		require.Equal(t, object, again)
		if err != nil {
			return
		}
		require.True(t, bytes.Equal(stored, spool.Bytes()))
		content, err := encode.Verify(&spool, "none", encode.Hashed)
		require.NoError(t, err)
		require.Equal(t, object.Rows, content.Rows)
		require.Equal(t, object.RawSHA256, content.RawSHA256)
	})
}

// FuzzValue holds that no field makes a value panic or print more than its length
// allows, and that what the encoder builds itself (rather than takes from the server as
// JSON) is valid JSON on one line.
func FuzzValue(f *testing.F) {
	f.Add(byte(encode.TypeNumeric), []byte("\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(byte(encode.TypeFloat4), []byte("\x39\x80\x00\x00"))
	f.Add(byte(encode.TypeFloat8), []byte("\x43\x60\x00\x00\x00\x00\x00\x01"))
	f.Add(byte(encode.TypeText), []byte("a\"\\\n"))
	f.Fuzz(func(t *testing.T, typ byte, v []byte) {
		got, err := encode.AppendValue(nil, encode.Type(typ), v)
		if err != nil {
			return
		}
		require.NotContains(t, string(got), "\n")
		require.LessOrEqual(t, len(got), 6*len(v)+4*(1<<16))
		switch encode.Type(typ) {
		case encode.TypeJSON, encode.TypeJSONB, encode.TypeRawJSON:
		default:
			require.True(t, json.Valid(got), "%s", got)
		}
	})
}

// FuzzVerify feeds damaged objects: no panic, no unbounded memory.
func FuzzVerify(f *testing.F) {
	for _, compression := range []string{"gzip", "zstd"} {
		stored, _, err := run(f, audit(3), encode.Options{Columns: auditColumns(), Compression: compression}, 1<<20)
		require.NoError(f, err)
		f.Add(stored, compression == "zstd")
	}
	f.Fuzz(func(t *testing.T, stored []byte, zstd bool) {
		compression := "gzip"
		if zstd {
			compression = "zstd"
		}
		if content, err := encode.Verify(bytes.NewReader(stored), compression, encode.Hashed); err == nil {
			require.EqualValues(t, len(stored), content.StoredBytes)
		}
	})
}
