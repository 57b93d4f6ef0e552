package encode_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math"
	"testing"

	"github.com/minio/crc64nvme"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/encode"
)

// BenchmarkRow is encoding and hashing of audit rows, one Write each as pgx gives them.
// "none" shows the encoder; the others the whole pipeline on this machine's cores.
func BenchmarkRow(b *testing.B) {
	for _, tc := range []struct {
		compression string
		level       int
	}{
		{"none", 0}, {"gzip", 0}, {"gzip", 1}, {"gzip", 2}, {"gzip", 3}, {"gzip", 4}, {"gzip", 5}, {"gzip", 6}, {"zstd", 0}, {"zstd", 3},
	} {
		b.Run(fmt.Sprintf("%s-%d", tc.compression, tc.level), func(b *testing.B) {
			rows := make([]stream, 1<<16) // 29 MB of lines: more than a compressor's window
			for n := range rows {
				rows[n] = auditRow(nil, n)
			}
			w, err := encode.NewWriter(io.Discard, encode.Options{Columns: auditColumns(), Key: []int{1, 0}, Compression: tc.compression, Level: tc.level})
			require.NoError(b, err)
			_, err = w.Write([]byte(streamHeader))
			require.NoError(b, err)
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				_, err = w.Write(rows[n%len(rows)])
			}
			require.NoError(b, err)
			_, err = w.Write([]byte{0xff, 0xff})
			require.NoError(b, err)
			object, err := w.Close()
			require.NoError(b, err)
			b.StopTimer()
			b.SetBytes(object.RawBytes / object.Rows)
			b.ReportMetric(float64(object.Rows)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(object.Serialize.Nanoseconds())/float64(object.Rows), "serialize-ns/row")
			b.ReportMetric(float64(object.Compress.Nanoseconds())/float64(object.Rows), "compress-ns/row")
			b.ReportMetric(float64(object.RawBytes)/float64(object.StoredBytes), "ratio")
		})
	}
}

// BenchmarkBatch is a whole Writer for 10,000 rows, with what it costs to make one.
func BenchmarkBatch(b *testing.B) {
	s := audit(10_000)
	for _, compression := range []string{"none", "gzip", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				w, err := encode.NewWriter(io.Discard, encode.Options{Columns: auditColumns(), Compression: compression})
				require.NoError(b, err)
				_, err = w.Write(s)
				require.NoError(b, err)
				_, err = w.Close()
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, compression := range []string{"none", "gzip", "zstd"} {
		stored, object, err := run(b, audit(10_000), encode.Options{Columns: auditColumns(), Compression: compression}, math.MaxInt)
		require.NoError(b, err)
		b.Run(compression, func(b *testing.B) {
			b.SetBytes(object.RawBytes)
			for range b.N {
				_, err := encode.Verify(bytes.NewReader(stored), compression, encode.Decoded)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkLine is framing and encoding alone, without the hashes and the pipeline.
func BenchmarkLine(b *testing.B) {
	row := auditRow(nil, 12345)
	line, err := encode.NewLineBench(encode.Options{Columns: auditColumns(), Key: []int{1, 0}})
	require.NoError(b, err)
	b.ReportAllocs()
	n := 0
	for range b.N {
		n, err = line(row)
	}
	require.NoError(b, err)
	b.SetBytes(int64(n))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkSum is what each byte of JSON lines costs at least: an object has both sums of
// its lines, and both of what is stored.
func BenchmarkSum(b *testing.B) {
	lines, _, err := run(b, audit(10_000), encode.Options{Columns: auditColumns(), Compression: "none"}, math.MaxInt)
	require.NoError(b, err)
	for _, tc := range []struct {
		name string
		sum  hash.Hash
	}{
		{"sha256", sha256.New()},
		{"crc64nvme", crc64nvme.New()},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.SetBytes(int64(len(lines)))
			b.ReportAllocs()
			var sum []byte
			for range b.N {
				tc.sum.Reset()
				_, _ = tc.sum.Write(lines) // a hash returns no error
				sum = tc.sum.Sum(sum[:0])
			}
			require.Len(b, sum, tc.sum.Size())
		})
	}
}

type benchValue struct {
	name string
	typ  encode.Type
	v    []byte
}

func benchValues() []benchValue {
	text := bytes.Repeat([]byte("plain text "), 10)
	document := []byte(`{"request_id": "5f4dcc3b5aa765d61d8327deb882cf99", "before": {"state": "pending"}, "after": {"state": "paid"}}`)
	return []benchValue{
		{"bool", encode.TypeBool, []byte{1}},
		{"int2", encode.TypeInt2, []byte{0x30, 0x39}},
		{"int4", encode.TypeInt4, be32(1234567890)},
		{"int8", encode.TypeInt8, be64(1234567890123)},
		{"oid", encode.TypeOID, be32(uint32(16384))},
		{"float8", encode.TypeFloat8, be64(int64(math.Float64bits(1234.5678)))},
		{"float8-large", encode.TypeFloat8, be64(int64(math.Float64bits(36028797018963976)))},
		{"float4", encode.TypeFloat4, be32(math.Float32bits(12.34))},
		{"numeric", encode.TypeNumeric, []byte{0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 4, 0xd2, 0x0d, 0x80}},
		{"text-110", encode.TypeText, text},
		{"text-110-escaped", encode.TypeText, append(bytes.Clone(text[:104]), "\"quote"...)},
		{"json-110", encode.TypeJSON, document},
		{"json-110-lines", encode.TypeJSON, bytes.ReplaceAll(document, []byte(", "), []byte(",\n"))},
		{"jsonb-110", encode.TypeJSONB, append([]byte{1}, text...)},
		{"rawjson-110", encode.TypeRawJSON, document},
		{"bytea-32", encode.TypeBytea, text[:32]},
		{"uuid", encode.TypeUUID, text[:16]},
		{"timestamp", encode.TypeTimestamp, be64(757382400_123_456)},
		{"timestamptz", encode.TypeTimestamptz, be64(757382400_123_456)},
		{"date", encode.TypeDate, be32(9000)},
		{"time", encode.TypeTime, be64(12345_678901)},
		{"inet4", encode.TypeInet, []byte{2, 32, 0, 4, 10, 20, 30, 40}},
		{"inet6", encode.TypeInet, append([]byte{3, 128, 0, 16}, text[:16]...)},
		{"cidr4", encode.TypeCIDR, []byte{2, 24, 1, 4, 10, 20, 30, 0}},
	}
}

func BenchmarkValue(b *testing.B) {
	for _, tc := range benchValues() {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			var err error
			for range b.N {
				dst, err = encode.AppendValue(dst[:0], tc.typ, tc.v)
			}
			require.NoError(b, err)
		})
	}
}

// TestEveryTypeIsMeasured fails when a type is added that BenchmarkValue does not have, or
// a value is none of its type.
func TestEveryTypeIsMeasured(t *testing.T) {
	t.Parallel()
	measured := map[encode.Type]bool{}
	for _, v := range benchValues() {
		_, err := encode.AppendValue(nil, v.typ, v.v)
		require.NoError(t, err, v.name)
		measured[v.typ] = true
	}
	for typ := encode.TypeBool; typ <= encode.TypeRawJSON; typ++ {
		require.True(t, measured[typ], "type %d", typ)
	}
	_, err := encode.AppendValue(nil, encode.TypeRawJSON+1, nil)
	require.ErrorContains(t, err, "unknown type", "the last one is the last")
}
