package demo

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A proof is worth something only if it can fail.
func TestVerdict(t *testing.T) {
	t.Parallel()
	cutoff := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	old, young := cutoff.Add(-time.Hour), cutoff.Add(time.Hour)
	of := func(id int64) hash { return hash{byte(id)} }
	for name, c := range map[string]struct {
		found func(a *account)
		want  verdict
	}{
		"each row in one place": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInTable(2, of(2), young)
			a.foundInTable(3, of(3), young)
		}, verdict{}},
		"an old row that is still in the table is in one place too": {func(a *account) {
			a.foundInTable(1, of(1), old)
			a.foundInTable(2, of(2), young)
			a.foundInTable(3, of(3), young)
		}, verdict{}},
		"lost": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInTable(3, of(3), young)
		}, verdict{Neither: 1}},
		"archived but not deleted": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInTable(1, of(1), old)
			a.foundInTable(2, of(2), young)
			a.foundInTable(3, of(3), young)
		}, verdict{Both: 1}},
		"archived twice": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInObject(1, of(1), old)
			a.foundInTable(2, of(2), young)
			a.foundInTable(3, of(3), young)
		}, verdict{Twice: 1}},
		"changed in an object and in the table": {func(a *account) {
			a.foundInObject(1, of(9), old)
			a.foundInTable(2, of(9), young)
			a.foundInTable(3, of(3), young)
		}, verdict{Changed: 2}},
		"never seen before": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInTable(2, of(2), young)
			a.foundInTable(3, of(3), young)
			a.foundInTable(4, of(4), young)
			a.foundInObject(0, of(0), old)
		}, verdict{Unknown: 2}},
		"archived before its time": {func(a *account) {
			a.foundInObject(1, of(1), old)
			a.foundInObject(2, of(2), young)
			a.foundInObject(3, of(3), young)
		}, verdict{Young: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(3, cutoff)
			for id := range int64(3) {
				a.originals[id] = of(id + 1)
			}
			c.found(&a)
			got := a.verdict()
			require.Equal(t, c.want, got)
			if c.want == (verdict{}) {
				require.NoError(t, got.err())
			} else {
				require.ErrorIs(t, got.err(), ErrProof)
			}
		})
	}
}

func TestReadLines(t *testing.T) {
	t.Parallel()
	// 2^53 + 1, which a float64 cannot hold.
	const first = `{"id":9007199254740993,"created_at":"2024-02-03T04:05:06.789+00:00","note":"a \u2028 b"}`
	type seen struct {
		id int64
		h  hash
		at time.Time
	}
	read := func(object []byte) (lines []string, rows []seen, err error) {
		lines, err = readLines(object, func(id int64, h hash, at time.Time) { rows = append(rows, seen{id, h, at.UTC()}) })
		return lines, rows, err
	}

	lines, rows, err := read(zipped(t, first+"\n"))
	require.NoError(t, err)
	require.Equal(t, []string{first}, lines)
	require.Equal(t, []seen{{9007199254740993, md5.Sum([]byte(first)), time.Date(2024, 2, 3, 4, 5, 6, 789e6, time.UTC)}}, rows)

	whole := zipped(t, first+"\n")
	for name, object := range map[string][]byte{
		"no gzip":            []byte(first),
		"cut short":          whole[:len(whole)-4],
		"no end of line":     zipped(t, first),
		"no JSON":            zipped(t, "{\n"),
		"no id":              zipped(t, `{"created_at":"2024-02-03T04:05:06+00:00"}`+"\n"),
		"id is a string":     zipped(t, `{"id":"1","created_at":"2024-02-03T04:05:06+00:00"}`+"\n"),
		"no time":            zipped(t, `{"id":1}`+"\n"),
		"damaged in storage": append(bytes.Clone(whole[:20]), append([]byte{whole[20] ^ 1}, whole[21:]...)...),
	} {
		_, _, err := read(object)
		require.Error(t, err, name)
	}
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, text)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}
