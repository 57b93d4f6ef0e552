package digest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestColumns reads a row's columns in each shape, and refuses every other number of them
// and every other width.
func TestColumns(t *testing.T) {
	t.Parallel()
	table, tid, xmin, hash := []byte{0, 0, 0, 7}, []byte{0, 0, 1, 0, 0, 3}, []byte{0, 0, 0, 9}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}
	for _, tc := range []struct {
		columns Columns
		names   []string
		values  [][]byte
		want    Row
	}{
		{Columns{}, []string{"tableoid", "ctid", "xmin"}, [][]byte{table, tid, xmin}, Row{7, 256, 3, 9, 0}},
		{Columns{Content: true}, []string{"tableoid", "ctid", "xmin", "content hash"}, [][]byte{table, tid, xmin, hash}, Row{7, 256, 3, 9, -2}},
		{Columns{Table: 7}, []string{"ctid", "xmin"}, [][]byte{tid, xmin}, Row{7, 256, 3, 9, 0}},
		{Columns{Table: 7, Content: true}, []string{"ctid", "xmin", "content hash"}, [][]byte{tid, xmin, hash}, Row{7, 256, 3, 9, -2}},
	} {
		require.Equal(t, tc.names, tc.columns.Names())
		got, err := tc.columns.Row(tc.values)
		require.NoError(t, err)
		require.Equal(t, tc.want, got)
		for i := range tc.values {
			_, err := tc.columns.Row(tc.values[:i])
			require.Error(t, err, "%d columns", i)
			bad := append([][]byte(nil), tc.values...)
			bad[i] = nil
			_, err = tc.columns.Row(bad)
			require.ErrorContains(t, err, `column "`+tc.names[i]+`": -1 bytes`)
			bad[i] = append([]byte{0}, tc.values[i]...)
			_, err = tc.columns.Row(bad)
			require.ErrorContains(t, err, `column "`+tc.names[i]+`"`)
		}
		_, err = tc.columns.Row(append(append([][]byte(nil), tc.values...), hash))
		require.Error(t, err, "one too many")
	}
}
