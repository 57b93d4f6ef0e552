// Package deploy holds what is in deploy/, docker-compose.yml and the Dockerfile
// against the program's configuration: times that must fit each other, addresses
// that are asked, names that must be given. That the manifests are well formed is for
// tools/deploycheck to say.
package deploy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// margin is what a stop needs beyond shutdown_timeout: to give the lease back, and to
// close.
const margin = 10 * time.Second

// read returns a file of the source tree.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), path))
	require.NoError(t, err)
	return string(text)
}

// decode reads a YAML file, the first document of which fits into T.
func decode[T any](t *testing.T, path string) T {
	t.Helper()
	var out T
	require.NoError(t, yaml.Unmarshal([]byte(read(t, path)), &out), path)
	return out
}

// load loads a configuration under variables of the environment.
func load(t *testing.T, path string, environ ...string) *config.Config {
	t.Helper()
	c, err := config.Load(config.Options{File: filepath.Join(testkit.ModuleRoot(t), path), Environ: environ})
	require.NoError(t, err)
	return c
}

type secret struct {
	StringData map[string]string `yaml:"stringData"`
}

// kubernetes loads the base's configuration as a pod does, with the secret's example.
func kubernetes(t *testing.T) *config.Config {
	t.Helper()
	var environ []string
	for name, value := range decode[secret](t, "deploy/kubernetes/base/secret.example.yaml").StringData {
		environ = append(environ, name+"="+value)
	}
	return load(t, "deploy/kubernetes/base/archiver.yaml", environ...)
}

type deployment struct {
	Spec struct {
		Template struct {
			Spec struct {
				Grace      int64 `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Args  []string
					Env   []struct{ Name, Value string }
					Ports []struct {
						Name string
						Port int `yaml:"containerPort"`
					}
					StartupProbe   probe `yaml:"startupProbe"`
					LivenessProbe  probe `yaml:"livenessProbe"`
					ReadinessProbe probe `yaml:"readinessProbe"`
					Resources      struct{ Limits map[string]string }
					VolumeMounts   []struct {
						Name string
						Path string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name     string
					EmptyDir struct {
						SizeLimit string `yaml:"sizeLimit"`
					} `yaml:"emptyDir"`
				}
			}
		}
	}
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func TestKubernetesFitsItsConfiguration(t *testing.T) {
	t.Parallel()
	c := kubernetes(t)
	pod := decode[deployment](t, "deploy/kubernetes/base/deployment.yaml").Spec.Template.Spec
	require.Len(t, pod.Containers, 1)
	worker := pod.Containers[0]
	require.Equal(t, []string{"work"}, worker.Args)
	require.GreaterOrEqual(t, time.Duration(pod.Grace)*time.Second, c.Worker.ShutdownTimeout+margin, "terminationGracePeriodSeconds and worker.shutdown_timeout")

	ports := map[string]string{}
	for _, p := range worker.Ports {
		ports[p.Name] = ":" + strconv.Itoa(p.Port) // on every address: probes come from the node
	}
	require.Equal(t, map[string]string{"http": c.Worker.Listen, "ui": c.UI.Listen}, ports)
	for path, p := range map[string]probe{"/healthz": worker.LivenessProbe, "/readyz": worker.ReadinessProbe} {
		require.Equal(t, path, p.HTTPGet.Path)
		require.Equal(t, "http", p.HTTPGet.Port)
	}
	require.Equal(t, "/healthz", worker.StartupProbe.HTTPGet.Path)

	volume := ""
	for _, m := range worker.VolumeMounts {
		if m.Path == c.Worker.SpoolDir {
			volume = m.Name
		}
	}
	spool := int64(0)
	for _, v := range pod.Volumes {
		if v.Name == volume {
			spool = binary(t, v.EmptyDir.SizeLimit)
		}
	}
	batch := c.Databases[0].Tables[0].MaxBatchBytes
	require.Greater(t, spool, int64(c.Worker.Concurrency)*batch, "the spool holds the largest batches, even if nothing can be compressed")
	require.Greater(t, binary(t, worker.Resources.Limits["ephemeral-storage"]), spool)
	for _, e := range worker.Env {
		if e.Name == "GOMEMLIMIT" {
			require.Less(t, binary(t, strings.TrimSuffix(e.Value, "B")), binary(t, worker.Resources.Limits["memory"]))
		}
	}
}

// binary reads a quantity such as 2Gi.
func binary(t *testing.T, quantity string) int64 {
	t.Helper()
	for unit, shift := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30} {
		if number, ok := strings.CutSuffix(quantity, unit); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			require.NoError(t, err)
			return n << shift
		}
	}
	require.Fail(t, "no quantity", quantity)
	return 0
}

// TestScaling runs the query that KEDA asks, and holds the most replicas against the
// seats that the fleet has.
func TestScaling(t *testing.T) {
	t.Parallel()
	text := read(t, "deploy/kubernetes/overlays/keda/scaledobject.yaml")
	_, text, found := strings.Cut(text, "\n---\n")
	require.True(t, found)
	var object struct {
		Spec struct {
			Min      int `yaml:"minReplicaCount"`
			Max      int `yaml:"maxReplicaCount"`
			Triggers []struct{ Metadata map[string]string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(text), &object))
	c := kubernetes(t)
	metadata := object.Spec.Triggers[0].Metadata
	require.Equal(t, strconv.Itoa(c.Worker.Concurrency), metadata["targetQueryValue"])
	seats := c.Databases[0].Concurrency * c.MaxParallelDatabases
	require.Equal(t, (seats+c.Worker.Concurrency-1)/c.Worker.Concurrency, object.Spec.Max)
	require.Equal(t, 1, object.Spec.Min, "schedules need a worker")
	require.Contains(t, read(t, "deploy/kubernetes/overlays/hpa/horizontalpodautoscaler.yaml"), "maxReplicas: "+strconv.Itoa(object.Spec.Max))

	db := testkit.Postgres(t)
	_, _, err := migrations.Up(t.Context(), db.Pool, c.Control.Schema, nil)
	require.NoError(t, err)
	db.Exec(t, `SET search_path = archiver;
		INSERT INTO archive_table (database, schema, name) VALUES ('orders', 'public', 'a'), ('orders', 'public', 'b'), ('billing', 'public', 'a');
		INSERT INTO run (table_id, cutoff, cutoff_value, key_columns) SELECT id, now(), '', '{}' FROM archive_table;
		INSERT INTO batch (run_id, table_id, job_id, to_key, partition, rows_planned, state, failed)
		SELECT r.id, r.table_id, 0, '{}', '', 1, s.state, s.failed FROM run r, (VALUES ('planned', false), ('deleting', false), ('planned', true), ('archived', false)) s(state, failed);
		RESET search_path`)
	require.EqualValues(t, 6, db.Int(t, metadata["query"]), "two open ones in each of three tables")
	db.Exec(t, `INSERT INTO archiver.pause (database, schema, name) VALUES ('orders', 'public', 'b')`)
	require.EqualValues(t, 4, db.Int(t, metadata["query"]))
	db.Exec(t, `INSERT INTO archiver.pause (database) VALUES ('orders')`)
	require.EqualValues(t, 2, db.Int(t, metadata["query"]))
	db.Exec(t, `INSERT INTO archiver.pause DEFAULT VALUES`)
	require.Zero(t, db.Int(t, metadata["query"]))
}

func TestComposeFitsItsConfiguration(t *testing.T) {
	t.Parallel()
	type service struct {
		Grace       string `yaml:"stop_grace_period"`
		Ports       []any
		Healthcheck struct {
			Test    []string
			Disable bool
		}
	}
	stack := decode[struct{ Services map[string]service }](t, "docker-compose.yml")
	c := load(t, "configs/compose.yaml", "DB_PASSWORD=p", "S3_ACCESS_KEY=a", "S3_SECRET_KEY=s", "UI_USERNAME=u", "UI_PASSWORD=p")
	worker := stack.Services["worker"]
	grace, err := time.ParseDuration(worker.Grace)
	require.NoError(t, err)
	require.GreaterOrEqual(t, grace, c.Worker.ShutdownTimeout+margin)
	require.Empty(t, worker.Ports, "a service that scales cannot publish a port")
	require.Equal(t, []string{"CMD", "/usr/local/bin/archiver", "health"}, worker.Healthcheck.Test)
	require.True(t, stack.Services["plan"].Healthcheck.Disable, "it is no worker")
	require.NotEmpty(t, c.Worker.Listen)

	dockerfile := read(t, "Dockerfile")
	for _, line := range []string{`STOPSIGNAL SIGTERM`, `CMD \["/usr/local/bin/archiver", "health"\]`, `USER 65532:65532`} {
		require.Regexp(t, line, dockerfile)
	}
}
