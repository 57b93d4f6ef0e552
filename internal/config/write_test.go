package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func example(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "configs", name))
	require.NoError(t, err)
	return string(content)
}

func TestWrittenConfigurationMeansTheSame(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, example(t, "example.yaml"), "ARCHIVER_DATABASES_0_TABLES_0_THROTTLE_QUERY=SELECT '${x}' = '$'",
		"ARCHIVER_DATABASES_0_TABLES_0_THROTTLE_WINDOWS=22:00-05:00 Europe/Berlin,12:00-13:00", "ARCHIVER_DATABASES_0_TABLES_0_TIMESTAMP_COLUMN=\"At\"",
		"ARCHIVER_DATABASES_0_TABLES_0_SCHEDULE=0 3 * * *", "ARCHIVER_S3_KMS_KEY_ID=true", "ARCHIVER_S3_SSE=aws:kms", "ARCHIVER_DEFAULTS_PARALLEL_DATABASES=false")
	require.NoError(t, err)
	require.Equal(t, "SELECT '${x}' = '$'", c.Databases[0].Tables[0].Throttle.Query)
	var first, second bytes.Buffer
	require.NoError(t, c.WriteYAML(&first))
	again, err := loadText(t, first.String())
	require.NoError(t, err, first.String())
	require.NoError(t, again.WriteYAML(&second))
	require.Equal(t, first.String(), second.String())
	c.Path, again.Path = "", ""
	require.Equal(t, c, again)

	var out bytes.Buffer
	require.NoError(t, c.WriteJSON(&out))
	var tree map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &tree))
	require.Equal(t, "true", tree["s3"].(map[string]any)["kms_key_id"])
	require.Contains(t, out.String(), `SELECT '${x}' = '$'`)
}

func TestWrittenConfigurationIsMasked(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, strings.Replace(with("s3", "access_key_id: a, secret_access_key: b"), "archiver@", "archiver:pw@", 2))
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, c.WriteYAML(&out))
	require.Contains(t, out.String(), "url: postgres://archiver:***@localhost:5432/orders")
	require.Contains(t, out.String(), "secret_access_key: '***'")
	require.Contains(t, out.String(), "retention: 90d")
	require.Contains(t, out.String(), "max_batch_bytes: 256MB")
	require.NotContains(t, out.String(), "pw")
	_, err = loadText(t, out.String())
	require.NoError(t, err, "masks are loadable")
}

func TestExampleLoads(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, example(t, "example.yaml"))
	require.NoError(t, err)
	require.Len(t, c.Databases, 2)
	require.Equal(t, Secret("postgres://archiver@primary.example.com:5432/orders?sslmode=prefer"), c.Databases[0].Primary)
	require.Equal(t, `orders.public."LoginEvents"`, c.Databases[0].Tables[1].String())
}

// yours are the keys of the example that have no default to compare with.
var yours = map[string]bool{"control.url": true, "s3.bucket": true, "s3.region": true, "defaults.retention": true}

func TestExampleHasEveryKeyWithItsDefault(t *testing.T) {
	t.Parallel()
	content := example(t, "example.yaml")
	var tree map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(content), &tree))
	var defaults map[string]any
	require.NoError(t, sectionNode(reflect.ValueOf(builtin())).Decode(&defaults))

	var visit func(section reflect.Type, at string, given, standard map[string]any)
	visit = func(section reflect.Type, at string, given, standard map[string]any) {
		for _, f := range fieldsOf(section) {
			path := join(at, f.name)
			value, present := given[f.name]
			if !present {
				t.Errorf("%s is missing in the example", path)
				continue
			}
			want, hasDefault := standard[f.name]
			switch {
			case isSection(f.typ):
				visit(f.typ, path, value.(map[string]any), want.(map[string]any))
			case isSectionList(f.typ) || yours[path]:
			case path == "s3.path_style":
				require.Equal(t, false, value, "follows the endpoint, which is empty")
			default:
				require.True(t, hasDefault, path)
				if d, err := parseDuration(toText(value)); err == nil {
					value = formatDuration(d)
				}
				require.EqualValues(t, want, value, path)
			}
		}
	}
	visit(reflect.TypeFor[document](), "", tree, defaults)

	union := map[string]bool{} // the keys of databases: all are shown, by one entry or the other
	for _, d := range tree["databases"].([]any) {
		for key := range d.(map[string]any) {
			union[key] = true
		}
	}
	inDefaults := tree["defaults"].(map[string]any)
	for _, f := range fieldsOf(reflect.TypeFor[databaseSection]()) {
		_, inherited := inDefaults[f.name]
		require.True(t, union[f.name] || inherited, "databases[].%s is missing in the example", f.name)
	}
	for _, line := range strings.Split(strings.Split(content, "\ndatabases:")[0], "\n") {
		if regexp.MustCompile(`^ +[a-z]\w*: .`).MatchString(line) {
			require.Regexp(t, `# \S`, line, "does not say why")
		}
	}
}

func toText(v any) string {
	s, _ := v.(string)
	return s
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ batch, pool, databases, thresholdMB int }{
		"high-performance.yaml":    {20000, 10, 4, 5},
		"memory-constrained.yaml":  {5000, 3, 1, 20},
		"network-constrained.yaml": {10000, 5, 1, 10},
	} {
		c, err := loadText(t, example(t, name))
		require.NoError(t, err, name)
		require.Equal(t, want.batch, c.Databases[0].Tables[0].BatchSize, name)
		require.Equal(t, want.pool, c.Databases[0].PoolSize, name)
		require.Equal(t, want.databases, c.MaxParallelDatabases, name)
		require.EqualValues(t, want.thresholdMB<<20, c.S3.MultipartThresholdBytes, name)
	}
}

// The performance guide's own examples, word for word; what they lack is given by
// the environment and a list of databases after them.
func TestGuideExamplesLoadUnchanged(t *testing.T) {
	t.Parallel()
	for _, snippet := range []string{`
defaults:
  batch_size: 20000
  connection_pool_size: 10
  parallel_databases: true
  max_parallel_databases: 4

s3:
  multipart_threshold_mb: 5  # Use multipart for smaller files
`, `
defaults:
  batch_size: 5000
  connection_pool_size: 3
  parallel_databases: false  # Sequential processing

s3:
  multipart_threshold_mb: 20  # Larger threshold
`, `
defaults:
  batch_size: 10000
  connection_pool_size: 5
  parallel_databases: false  # Avoid parallel uploads

s3:
  multipart_threshold_mb: 10
`, `
defaults:
  vacuum_after_archival: true  # Run VACUUM after each table
  vacuum_mode: ANALYZE  # ANALYZE, FULL, or none
`} {
		_, err := loadText(t, snippet+`
control: {url: "postgres://localhost/archiver"}
databases:
  - name: production_db
    host: primary.example.com
    read_replica: replica.example.com  # Use replica for SELECT queries
    connection_pool_size: 10  # Override for high-traffic database
    tables: [{name: audit_logs, retention: 90d}]
`, "ARCHIVER_S3_BUCKET=audit-archive", "AWS_REGION=us-east-1")
		require.NoError(t, err, snippet)
	}
}
