package layout

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKey(t *testing.T) {
	t.Parallel()
	o := Object{
		Prefix: "prod", Database: "orders", Schema: "public", Table: "audit_logs", Partition: "year=2024/month=03",
		First: json.RawMessage(`"2024-03-01T12:00:00.5+00:00"`), BatchID: 42, SHA256: [32]byte{0xab, 0xcd}, Extension: ".jsonl.gz",
	}
	require.Equal(t, "prod/orders/public/audit_logs/year=2024/month=03/20240301T120000.5Z_42_abcd000000000000.jsonl.gz", o.Key())
	require.Equal(t, "prod/orders/public/audit_logs/year=2024/month=03/20240301T120000.5Z_42_abcd000000000000.manifest.json", o.ManifestKey())
	require.True(t, IsManifest(o.ManifestKey()))
	require.False(t, IsManifest(o.Key()))
	o.Prefix, o.Partition, o.First = "", "", json.RawMessage(`"-infinity"`)
	require.Equal(t, "orders/public/audit_logs/-infinity_42_abcd000000000000.jsonl.gz", o.Key())
}

func TestEscapeKeepsTablesApart(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, schema := range []string{"a", "a/b", "a%2Fb", "a.b", ".", "..", "A", "ä", "a b"} {
		for _, table := range []string{"t", "b/t", "../t", "t%", ""} {
			key := TablePrefix("p", "db", schema, table)
			if table != "" { // Postgres has no empty names
				require.Equal(t, 3, strings.Count(key, "/"), key)
			}
			name := schema + "\x00" + table
			require.Empty(t, seen[key], "%q and %q share %s", seen[key], name, key)
			seen[key] = name
		}
	}
}

func FuzzEscapeIsInjective(f *testing.F) {
	f.Add("a/b", "a%2Fb")
	f.Add(".", "%2E")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && Escape(a) == Escape(b) {
			t.Fatalf("%q and %q are both %q", a, b, Escape(a))
		}
		if e := Escape(a); e == "." || e == ".." || strings.ContainsAny(e, "/\\ ") {
			t.Fatalf("%q escapes to %q", a, e)
		}
	})
}
