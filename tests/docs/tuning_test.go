package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// whatAndWhere are the keys that say what is archived and where it goes. All others have
// something to do with pace, size or load.
var whatAndWhere = map[string]bool{
	"retention": true, "min_retention": true, "timestamp_column": true, "timezone": true, "allow": true,
	"s3.bucket": true, "s3.prefix": true, "s3.region": true, "s3.endpoint": true, "s3.path_style": true, "s3.access_key_id": true, "s3.secret_access_key": true,
	"databases[].name": true, "databases[].url": true, "databases[].host": true, "databases[].port": true, "databases[].dbname": true,
	"databases[].user": true, "databases[].password": true, "databases[].sslmode": true, "databases[].tables": true,
	"control.url": true, "control.schema": true,
	"ui.enabled": true, "ui.listen": true, "ui.username": true, "ui.password": true, "ui.read_only": true,
}

// TestEveryKnobHasAnEffect holds the table of docs/TUNING.md against the example
// configuration: each key that says something about pace, size or load has its row, with
// its default and a test that shows what it changes, and each row has its key.
func TestEveryKnobHasAnEffect(t *testing.T) {
	t.Parallel()
	text := page(t, "docs/TUNING.md")
	tests, _ := declared(t)
	testName := regexp.MustCompile(`\bTest[A-Z]\w*`)
	rows := map[string]string{} // key -> default
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.0-9\\[\\]]+)` \\| ([^|]*) \\| ([^|]+) \\| ([^|]+) \\|$").FindAllStringSubmatch(text, -1) {
		require.NotContains(t, rows, m[1], "two rows")
		rows[m[1]] = strings.Trim(m[2], "` ")
		require.NotEmpty(t, testName.FindString(m[4]), "%s names no test", m[1])
	}
	for _, name := range testName.FindAllString(text, -1) {
		require.True(t, tests[name], "there is no test %s", name)
	}

	known := map[string]any{}
	for key, value := range exampleKeys(t) {
		if !whatAndWhere[key] {
			require.Contains(t, rows, key, "has no row")
			known[key] = value
		}
	}
	for key, said := range rows {
		value, ok := known[key]
		require.True(t, ok, "%s is on the page and no such key", key)
		if key != "databases[].read_replica" { // nobody has one by default
			require.Equal(t, asText(value), said, key)
		}
	}
	for key := range whatAndWhere {
		require.NotContains(t, rows, key)
	}
}

// exampleKeys are the keys of configs/example.yaml, which are all that there are, with
// their values. Those of defaults go by their names alone, and those that only databases
// have by databases[].
func exampleKeys(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), "configs", "example.yaml"))
	require.NoError(t, err)
	var tree map[string]any
	require.NoError(t, yaml.Unmarshal(text, &tree))
	keys := map[string]any{}
	var visit func(at string, section map[string]any)
	visit = func(at string, section map[string]any) {
		for name, value := range section {
			if inner, ok := value.(map[string]any); ok {
				visit(at+name+".", inner)
				continue
			}
			keys[at+name] = value
		}
	}
	for name, section := range tree {
		switch name {
		case "defaults":
			visit("", section.(map[string]any))
		case "databases":
		default:
			visit(name+".", section.(map[string]any))
		}
	}
	for _, d := range tree["databases"].([]any) {
		for name, value := range d.(map[string]any) {
			if _, inherited := keys[name]; !inherited {
				keys["databases[]."+name] = value
			}
		}
	}
	require.Greater(t, len(keys), 60)
	return keys
}

// asText is a value as it stands in the table: empty for none.
func asText(value any) string {
	if list, ok := value.([]any); ok && len(list) == 0 {
		return ""
	}
	return fmt.Sprint(value)
}
