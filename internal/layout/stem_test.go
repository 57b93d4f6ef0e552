package layout_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/layout"
)

func TestParseReadsWhatObjectMakes(t *testing.T) {
	t.Parallel()
	for _, extension := range []string{".jsonl", ".jsonl.gz", ".jsonl.zst"} {
		o := layout.Object{
			Prefix: "p", Database: "d_1", Schema: "public", Table: "t_2_x", Partition: "year=2024/month=03",
			First: json.RawMessage(`"2024-03-01T00:00:00.5+00:00"`), BatchID: 42, SHA256: [32]byte{0xab}, Extension: extension,
		}
		fromObject, id, ok := layout.Parse(o.Key())
		require.True(t, ok, o.Key())
		require.EqualValues(t, 42, id)
		fromManifest, id, ok := layout.Parse(o.ManifestKey())
		require.True(t, ok, o.ManifestKey())
		require.EqualValues(t, 42, id)
		require.Equal(t, fromObject, fromManifest)
		require.Equal(t, o.Key(), fromObject+extension)
	}
}

func TestParseRefusesOtherKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "p/.archiver/probe-0123456789abcdef", "p/d/s/t/notes.txt", "p/d/s/t/x_1_0123456789abcdef.csv",
		"p/d/s/t/x_1_0123456789ABCDEF.jsonl", "p/d/s/t/x_99999999999999999999_0123456789abcdef.jsonl", "x_1_0123456789abcdef.jsonl/",
	} {
		_, _, ok := layout.Parse(key)
		require.False(t, ok, key)
	}
}
