package digest

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func of(rows ...Row) Digest {
	var d Digest
	for _, r := range rows {
		d.Add(r)
	}
	return d
}

func TestDigestIgnoresOrderButNothingElse(t *testing.T) {
	t.Parallel()
	base := []Row{{1, 2, 3, 4, 0}, {1, 2, 4, 4, 0}, {1, 3, 1, 9, 0}, {7, 2, 3, 4, 0}}
	want := of(base...)
	for range 20 {
		shuffled := append([]Row(nil), base...)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		require.Equal(t, want, of(shuffled...))
	}
	for i := range base {
		for name, change := range map[string]func(*Row){
			"tableoid": func(r *Row) { r.TableOID++ },
			"block":    func(r *Row) { r.Block++ },
			"offset":   func(r *Row) { r.Offset++ },
			"xmin":     func(r *Row) { r.Xmin++ },
			"content":  func(r *Row) { r.Content-- },
		} {
			changed := append([]Row(nil), base...)
			change(&changed[i])
			require.NotEqual(t, want, of(changed...), name)
		}
	}
	require.NotEqual(t, want, of(base[:3]...), "a row fewer")
	require.NotEqual(t, of(base[0], base[1]), of(base[0], base[0], base[1], base[1]), "counted twice")
	require.NotEqual(t, Digest{}, of(base[0], base[0]), "twice the same row does not cancel out")
}

func TestDigestText(t *testing.T) {
	t.Parallel()
	for _, d := range []Digest{{}, of(Row{1, 2, 3, 4, 5}), of(Row{Xmin: 1}, Row{Xmin: 2})} {
		got, err := Parse(d.String())
		require.NoError(t, err)
		require.Equal(t, d, got)
	}
	for _, bad := range []string{"", "1", "1:", "x:00", "1:00", "-1:00000000000000000000000000000000", "1:zz000000000000000000000000000000"} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
}

func BenchmarkAdd(b *testing.B) {
	var d Digest
	for i := range b.N {
		d.Add(Row{TableOID: 16384, Block: uint32(i), Offset: 7, Xmin: 900})
	}
}
