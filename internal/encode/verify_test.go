package encode_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
)

// TestDamage cuts an object at every byte, flips a bit in each, and appends to it. With
// compression every cut and every addition is an error; a flip is one too or changes
// nothing that is read, and always changes the hash of what is stored.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"gzip", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			whole, object, err := run(t, audit(6), encode.Options{Columns: auditColumns(), Compression: compression}, math.MaxInt)
			require.NoError(t, err)
			rows, err := copied(whole, compression)
			require.NoError(t, err)
			require.Equal(t, object.RawSHA256, sha256.Sum256(rows))
			for n := range len(whole) {
				_, err := encode.Verify(bytes.NewReader(whole[:n]), compression, encode.Hashed)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", n)
				_, err = copied(whole[:n], compression)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", n)

				flipped := bytes.Clone(whole)
				flipped[n] ^= 1 << (n % 8)
				content, err := encode.Verify(bytes.NewReader(flipped), compression, encode.Hashed)
				if err == nil {
					require.Equal(t, object.RawSHA256, content.RawSHA256, "flipped at %d", n)
					require.Equal(t, object.RawCRC64NVME, content.RawCRC64NVME, "flipped at %d", n)
					require.NotEqual(t, object.StoredSHA256, content.StoredSHA256)
				}
			}
			for _, tail := range [][]byte{{0}, []byte("garbage"), whole, {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}} {
				_, err := encode.Verify(bytes.NewReader(append(bytes.Clone(whole), tail...)), compression, encode.Hashed)
				require.ErrorContains(t, err, "after the end of the compressed stream")

				_, err = copied(append(bytes.Clone(whole), tail...), compression)
				require.ErrorContains(t, err, "after the end of the compressed stream")
			}
			_, err = encode.Verify(iotest.OneByteReader(bytes.NewReader(whole)), compression, encode.Hashed)
			require.NoError(t, err)
			_, err = encode.Verify(io.MultiReader(bytes.NewReader(whole[:99]), iotest.ErrReader(errNoSpace)), compression, encode.Hashed)
			require.ErrorIs(t, err, errNoSpace, "an error of the source stays itself")
			_, err = encode.Verify(io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(errNoSpace)), compression, encode.Hashed)
			require.ErrorIs(t, err, errNoSpace)
		})
	}
}

// copied reads an object piece by piece, and as io.Copy does where it can: both must find
// the same.
func copied(object []byte, compression string) (rows []byte, err error) {
	for _, plain := range []bool{true, false} {
		r, openErr := encode.NewReader(bytes.NewReader(object), compression)
		if openErr != nil {
			return nil, openErr
		}
		var from io.Reader = r
		if plain {
			from = struct{ io.Reader }{r}
		}
		var out bytes.Buffer
		_, copyErr := io.Copy(&out, from)
		if !plain && ((copyErr == nil) != (err == nil) || !bytes.Equal(out.Bytes(), rows)) {
			return nil, fmt.Errorf("%d bytes and %w, or %d and %w", len(rows), err, out.Len(), copyErr)
		}
		rows, err = out.Bytes(), errors.Join(copyErr, r.Close())
	}
	return rows, err
}

func TestVerifyPlain(t *testing.T) {
	t.Parallel()
	content, err := encode.Verify(bytes.NewReader([]byte("{}\n{}\n")), "none", encode.Hashed)
	require.NoError(t, err)
	require.EqualValues(t, 2, content.Rows)
	_, err = encode.Verify(bytes.NewReader([]byte("{}\n{}")), "none", encode.Hashed)
	require.EqualError(t, err, "decode object at row 2: the last line has no line feed")
	_, err = encode.Verify(bytes.NewReader(nil), "lz4", encode.Hashed)
	require.ErrorContains(t, err, `unknown compression "lz4"`)
	_, err = encode.Verify(iotest.ErrReader(errNoSpace), "gzip", encode.Stored)
	require.ErrorIs(t, err, errNoSpace)
}

func TestExtension(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"gzip", "zstd", "none"} {
		got, ok := encode.CompressionOf("p/db/public/t/year=2024/x" + encode.Extension("jsonl", compression))
		require.True(t, ok)
		require.Equal(t, compression, got)
	}
	require.Equal(t, ".jsonl.gz", encode.Extension("jsonl", "gzip"))
	require.Equal(t, ".jsonl.zst", encode.Extension("jsonl", "zstd"))
	require.Equal(t, ".jsonl", encode.Extension("jsonl", "none"))
	for _, key := range []string{"", "x.manifest.json", "x.gz", "x.parquet", "jsonl.gz/x"} {
		_, ok := encode.CompressionOf(key)
		require.False(t, ok, key)
	}
}

func TestTypeFor(t *testing.T) {
	t.Parallel()
	for _, oid := range []uint32{0, 18, 142, 790, 829, 1009, 1186, 1266, 1560, 2249, 16384, math.MaxUint32} {
		_, ok := encode.TypeFor(oid)
		require.False(t, ok, "oid %d is rendered by the server", oid)
	}
}

// TestBadValues holds that no bytes make a value panic, and the errors of some.
func TestBadValues(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		typ  encode.Type
		v    string
		want string
	}{
		{encode.TypeNumeric, "\x00\x01\x00\x00\x00\x00\x00\x00", "not a numeric"},
		{encode.TypeNumeric, "\x00\x01\x00\x00\x00\x00\x00\x00\x27\x10", "numeric digit 10000"},
		{encode.TypeNumeric, "\x00\x00\x00\x00\x12\x34\x00\x00", "numeric sign 0x1234"},
		{encode.TypeNumeric, "\x00\x00\x00\x01\x00\x00\x00\x00", "leading zeros"},
		{encode.TypeInet, "\x02\x21\x00\x04\x7f\x00\x00\x01", "prefix length 33"},
		{encode.TypeInet, "\x02\x20\x00\x10\x7f\x00\x00\x01", "not an address"},
		{encode.TypeInet, "\x03\x20\x00\x04\x7f\x00\x00\x01", "address family 3 with 4 bytes"},
		{encode.TypeTime, "\xff\xff\xff\xff\xff\xff\xff\xff", "no time of day"},
		{encode.TypeRawJSON, "", "empty json"},
		{encode.Type(0), "", "unknown type 0"},
		{encode.Type(255), "", "unknown type 255"},
	} {
		_, err := encode.AppendValue(nil, tc.typ, []byte(tc.v))
		require.ErrorContains(t, err, tc.want, "%x", tc.v)
	}
}
