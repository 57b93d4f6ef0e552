package config

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDurations(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"90d": 90 * day, "1d12h": 36 * time.Hour, "0d": 0, "30s": 30 * time.Second, "1.5h": 90 * time.Minute, "1d0.5s": day + 500*time.Millisecond,
		"-1h": -time.Hour, "106751d": 106751 * day, "1h30m": 90 * time.Minute,
	} {
		got, err := parseDuration(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
		back, err := parseDuration(formatDuration(got))
		require.NoError(t, err, in)
		require.Equal(t, want, back, in)
	}
	for _, in := range []string{"", "0", "30", "d", "-1d", "+1d", "1.5d", "1h2d", "1d-1h", "1d+1h", "1d5", "1d0", "1w", " 1d", "1 d", "106752d", "106751d24h", "99999999999999999999d", "9999999h", "1dd"} {
		_, err := parseDuration(in)
		require.Error(t, err, in)
	}
	for d, want := range map[time.Duration]string{365 * day: "365d", 36 * time.Hour: "1d12h", time.Minute: "1m", 10 * time.Minute: "10m", 90 * time.Second: "1m30s", time.Hour: "1h", 0: "0s", math.MaxInt64: "106751d23h47m16.854775807s"} {
		require.Equal(t, want, formatDuration(d))
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]byteSize{"256MB": 256e6, "1KiB": 1024, "1KB": 1000, "2MiB": 2 << 20, "1GB": 1e9, "1GiB": 1 << 30, "7B": 7, "0B": 0} {
		got, err := parseSize(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
		require.Equal(t, in, formatSize(got))
	}
	for _, in := range []string{"", "1", "MB", "1mb", "1.5MB", "-1MB", "1 MB", "9999999999GiB", "99999999999999999999B", "1TB"} {
		_, err := parseSize(in)
		require.Error(t, err, in)
	}
}

func TestTableNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 31)
	for in, want := range map[string][2]string{
		"t": {"public", "t"}, "Public.Audit_Logs": {"public", "audit_logs"}, `"Public"."Audit Logs"`: {"Public", "Audit Logs"},
		`"a""b".c`: {"a", "c"}, ` s . t `: {"s", "t"}, `"a.b"`: {"public", "a.b"}, "größe$1": {"public", "größe$1"}, "ÄX": {"public", "Äx"}, long + "x": {"public", long + "x"},
		`" "`: {"public", " "},
	} {
		if in == `"a""b".c` {
			want[0] = `a"b`
		}
		schema, table, err := ParseTableName(in)
		require.NoError(t, err, in)
		require.Equal(t, want, [2]string{schema, table}, in)
		again, table2, err := ParseTableName(quoteName(schema) + "." + quoteName(table))
		require.NoError(t, err, in)
		require.Equal(t, want, [2]string{again, table2}, in)
	}
	for _, in := range []string{"", " ", ".", "a.", ".a", "a.b.c", "1a", "$a", "a b", "a-b", `"a`, `""`, `"a"b`, "a\x00b", "\"a\x00\"", "\xff", "a..b", long + "xy", `"` + long + `xy"`, "a;drop table b"} {
		_, _, err := ParseTableName(in)
		require.Error(t, err, in)
	}
	require.Equal(t, `orders-eu.public."Audit Logs"`, Table{Database: "orders-eu", Schema: "public", Name: "Audit Logs"}.String())
}

func TestWindows(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Window{
		"22:00-05:00 Europe/Berlin": {22 * 60, 5 * 60, "Europe/Berlin"}, "00:00-24:00": {0, 24 * 60, ""}, "01:30-02:45 UTC": {90, 165, "UTC"},
	} {
		got, err := parseWindow(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
		require.Equal(t, in, got.String())
	}
	for _, in := range []string{"", "22-05", "22:00-25:00", "24:00-01:00", "22:60-23:00", "22:00-24:01", "01:00-01:00", "22:00-05:00 Mars", "22:00-05:00 Local", "22:00 - 05:00", "x22:00-05:00"} {
		_, err := parseWindow(in)
		require.Error(t, err, in)
	}
}

func TestDatabaseAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ keys, primary, replica, problem string }{
		{"host: h", "postgres://h:5432/orders", "", ""},
		{
			"{host: 10.0.0.1, port: 5433, dbname: 'D b', user: 'u@x', password: 'p/:@?#%', sslmode: require}",
			"postgres://u%40x:p%2F%3A%40%3F%23%25@10.0.0.1:5433/D%20b?sslmode=require", "", "",
		},
		{"host: '::1'", "postgres://[::1]:5432/orders", "", ""},
		{"host: /var/run/postgresql", "postgres:///orders?host=%2Fvar%2Frun%2Fpostgresql&port=5432", "", ""},
		{"{host: h, user: u, password: p, port: 6000, read_replica: r}", "postgres://u:p@h:6000/orders", "postgres://u:p@r:6000/orders", ""},
		{"{host: h, read_replica: 'r:7000'}", "postgres://h:5432/orders", "postgres://r:7000/orders", ""},
		{"{host: h, read_replica: '[::2]:7000'}", "postgres://h:5432/orders", "postgres://[::2]:7000/orders", ""},
		{"{host: /run/pg, read_replica: r}", "postgres:///orders?host=%2Frun%2Fpg&port=5432", "postgres://r:5432/orders", ""},
		{"{url: 'postgres://u:p@h/d?sslmode=require', read_replica: r}", "postgres://u:p@h/d?sslmode=require", "postgres://u:p@r:5432/d?sslmode=require", ""},
		{"{url: 'postgres://u:p@h1:1,h2:2/d?target_session_attrs=read-write', read_replica: r}", "postgres://u:p@h1:1,h2:2/d?target_session_attrs=read-write", "postgres://u:p@r:1/d", ""},
		{"{url: 'postgresql://h/d', read_replica: 'postgres://x:y@r/e'}", "postgresql://h/d", "postgres://x:y@r/e", ""},
		{"host: 'h:5433'", "", "", "host"},
		{"host: 'a b'", "", "", "host"},
		{"host: 'h1,h2'", "", "", "host"},
		{"{host: h, port: 70000}", "", "", "port"},
		{"{host: h, port: -1}", "", "", "port"},
		{"{host: h, sslmode: on}", "", "", "sslmode"},
		{"{host: h, password: p}", "", "", "user"},
		{"{host: h, dbname: 'postgres://x'}", "", "", "dbname"},
		{"{host: h, read_replica: 'r:x'}", "", "", "read_replica"},
		{"{host: h, read_replica: 'a b'}", "", "", "read_replica"},
		{"{host: h, read_replica: 'http://r'}", "", "", "read_replica"},
		{"{url: 'host=h dbname=d'}", "", "", "url"},
		{"{url: 'postgres://h:x/d'}", "", "", "url"},
		{"{url: 'postgres://h/d', user: u}", "", "", "url"},
		{"port: 5432", "", "", "url"},
	} {
		t.Run(c.keys, func(t *testing.T) {
			t.Parallel()
			keys := strings.Trim(c.keys, "{}")
			got, err := loadText(t, strings.Split(base, "databases:")[0]+"databases: [{name: orders, "+keys+", tables: [{name: t}]}]")
			if c.problem != "" {
				lines := problemsOf(t, err)
				require.Len(t, lines, 1)
				require.True(t, strings.HasPrefix(lines[0], "databases[0]."+c.problem+": "), lines[0])
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.primary, got.Databases[0].Primary.Reveal())
			require.Equal(t, c.replica, got.Databases[0].Replica.Reveal())
		})
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"retention", "min_retention", "batch_size", "url"}
	for in, want := range map[string]string{"retetion": "retention", "batchsize": "batch_size", "minretention": "min_retention", "uri": "url", "xyz": "", "": ""} {
		require.Equal(t, want, nearest(in, words), in)
	}
}
