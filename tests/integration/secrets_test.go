//go:build failpoint

package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// The secrets of one fleet, right ones and wrong ones, each with characters that
// change when they are quoted for a URL, for YAML or for SQL.
var planted = map[string]string{
	"source password":        "Zq1source'p@ss:w/ord",
	"control password":       "Zq2control p%ss?word",
	"wrong source password":  "Zq3wrong&source#password",
	"wrong control password": "Zq4wrong=control+password",
	"S3 key":                 "Zq5s3secret/key+with=signs",
	"wrong S3 key":           "Zq6wrong/s3/secret+key",
	"UI password":            "Zq7ui\"password",
	"PGPASSWORD":             "Zq8environment'password",
}

// leak is text in which a secret must not be.
type leak struct{ where, text string }

// safe keeps what several goroutines write.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestSecretsStaySecret has every command run into every kind of failure with secrets
// at hand, and then looks for them wherever anything was written or shown.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	var serverLog, storeLog safe
	cluster := testkit.Cluster(t, localserver.PostgresOptions{Log: &serverLog, Settings: map[string]string{"log_statement": "all", "log_connections": "on", "log_error_verbosity": "verbose"}})
	store, err := localserver.StartS3(t.Context(), localserver.S3Options{AccessKey: "archiver", SecretKey: planted["S3 key"], Log: &storeLog})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Stop()) })
	bucket := &testkit.Bucket{Endpoint: store.Endpoint, AccessKey: "archiver", SecretKey: planted["S3 key"], Region: "us-east-1", Name: "archive", Server: store}
	require.NoError(t, store.CreateBucket(t.Context(), "archive", false))

	source, control := testkit.Database(t, cluster), testkit.Database(t, cluster)
	control.Exec(t, fmt.Sprintf(`SET log_statement = none; CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '%s'; CREATE ROLE reader LOGIN SUPERUSER PASSWORD '%s'`,
		quote(planted["control password"]), quote(planted["source password"])))
	hba := filepath.Join(cluster.DataDir, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(hba, append([]byte("host all keeper,reader 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600))
	control.Exec(t, `SELECT pg_reload_conf()`)
	// The role that made it has it in its log; from here on nobody may.
	before := len(serverLog.String())

	site := &secretSite{t: t, program: testkit.Build(t, "./cmd/archiver"), port: cluster.Port, source: source.Name, control: control.Name, endpoint: store.Endpoint}
	source.Exec(t, trialTable)
	source.Exec(t, fmt.Sprintf(trialRows, 40))

	activity := site.watch(control)
	site.run(nil, "migrate")
	for _, broken := range []map[string]string{
		{"source": "wrong source password"},
		{"control": "wrong control password"},
		{"s3": "wrong S3 key"},
		{"port": "1"},
		{"endpoint": "http://127.0.0.1:1"},
		{"extra": "s3_secret: " + planted["S3 key"]},
		{"endpoint": "http://user:" + url.QueryEscape(planted["S3 key"]) + "@127.0.0.1:1"},
		{"source url": "postgres://reader:" + url.QueryEscape(planted["source password"]) + "@127.0.0.1:noport/x"},
		{"source url": "postgres://reader:" + planted["source password"] + "@127.0.0.1:5432/x?sslmode=what"},
		{"source url": "host=127.0.0.1 user=reader password=" + planted["source password"]},
		{"source url": "${NO_SUCH_VARIABLE}:" + planted["source password"]},
		{"environment": "yes"},
		nil,
	} {
		for _, command := range []string{"config", "check", "plan --dry-run", "plan --json", "run", "work --drain", "status --json", "jobs list --json", "ls", "migrate --status"} {
			site.run(broken, strings.Fields(command)...)
		}
	}
	// Batches that fail, which is noted in the queue and the ledger.
	source.Exec(t, strings.Replace(fmt.Sprintf(trialRows, 80), "generate_series(1,", "generate_series(41,", 1))
	site.run(nil, "plan")
	site.run(map[string]string{"source": "wrong source password"}, "work", "--drain")
	require.Positive(t, control.Int(t, `SELECT count(*) FROM archiver.batch WHERE last_error LIKE '%password authentication failed%'`), "no failure was noted")
	site.run(nil, "jobs", "list")
	keys := bucket.Keys(t)
	require.NotEmpty(t, keys, "nothing was archived: %s", site.leaks[len(site.leaks)-1].text)
	for _, key := range keys {
		site.run(nil, "cat", key)
	}
	require.NoError(t, activity())

	site.leaks = append(site.leaks, leak{"log of the database server", serverLog.String()[before:]}, leak{"log of the S3 server", storeLog.String()})
	for _, key := range keys {
		head, err := bucket.Client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket.Name), Key: aws.String(key)})
		require.NoError(t, err)
		site.leaks = append(site.leaks, leak{"object " + key, key + string(bucket.Read(t, key))}, leak{"metadata of " + key, fmt.Sprint(head.Metadata)})
	}
	tables := textRows(t, connect(t, control.DSN), `SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'archiver'::regnamespace AND relkind = 'r'`)
	require.NotEmpty(t, tables)
	for _, table := range tables {
		rows := textRows(t, connect(t, control.DSN), `SELECT r::text FROM `+table+` r`)
		site.leaks = append(site.leaks, leak{"table " + table, strings.Join(rows, "\n")})
	}
	found := 0
	for _, l := range site.leaks {
		found += len(l.text)
		for name, secret := range planted {
			for how, form := range forms(secret) {
				require.NotContains(t, l.text, form, "the %s (%s) is in: %s", name, how, l.where)
			}
		}
	}
	require.Greater(t, found, 100_000, "too little was looked at")
}

// forms are the ways in which a secret may be written.
func forms(secret string) map[string]string {
	return map[string]string{
		"as it is": secret, "in a query": url.QueryEscape(secret), "in a path": url.PathEscape(secret), "as a URL's user": strings.TrimPrefix(url.UserPassword("", secret).String(), ":"),
		"in base64": base64.StdEncoding.EncodeToString([]byte(secret)), "in hex": hex.EncodeToString([]byte(secret)),
		"quoted": strings.Trim(fmt.Sprintf("%q", secret), `"`), "in SQL": quote(secret), "its beginning": secret[:6],
	}
}

func quote(s string) string { return strings.ReplaceAll(s, "'", "''") }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// secretSite runs commands on configurations that hold the secrets.
type secretSite struct {
	t                        *testing.T
	program, source, control string
	endpoint                 string
	port                     int
	leaks                    []leak
}

// run runs a command with parts of the configuration replaced, to whatever end.
func (s *secretSite) run(broken map[string]string, args ...string) {
	s.t.Helper()
	or := func(key, usual string) string {
		if v, ok := broken[key]; ok {
			return v
		}
		return usual
	}
	port := or("port", fmt.Sprint(s.port))
	dsn := func(role, secret, database string) string {
		u := url.URL{Scheme: "postgres", User: url.UserPassword(role, planted[secret]), Host: "127.0.0.1:" + port, Path: database, RawQuery: "sslmode=disable&connect_timeout=10"}
		return u.String()
	}
	database := fmt.Sprintf("{name: main, host: 127.0.0.1, port: %s, dbname: %s, user: reader, password: %q, sslmode: disable, tables: [{name: audit_logs}]}", port, s.source, planted[or("source", "source password")])
	if u, ok := broken["source url"]; ok {
		database = fmt.Sprintf("{name: main, url: %q, tables: [{name: audit_logs}]}", u)
	}
	env := []string{"HOME=" + s.t.TempDir(), "PATH=" + os.Getenv("PATH"), "PGPASSWORD=" + planted["PGPASSWORD"]}
	controlURL := dsn("keeper", or("control", "control password"), s.control)
	if broken["environment"] != "" { // the secrets come from elsewhere
		env = append(env, "ARCHIVER_CONTROL_URL="+controlURL, "S3_KEY="+planted["S3 key"])
		controlURL = "postgres://keeper@127.0.0.1:" + port + "/" + s.control
	}
	key := fmt.Sprintf("%q", planted[or("s3", "S3 key")])
	if broken["environment"] != "" {
		key = "${S3_KEY}"
	}
	yaml := fmt.Sprintf(`
control: {url: %q}
s3: {bucket: archive, prefix: pre, endpoint: %q, access_key_id: archiver, secret_access_key: %s, retry: {max_attempts: 1, initial_delay: 10ms, max_delay: 10ms}}
defaults: {retention: 30d, batch_size: 10}
worker: {shutdown_timeout: 1s}
ui: {username: admin, password: %q}
log: {level: debug}
databases: [%s]
%s
`, controlURL, or("endpoint", s.endpoint), key, planted["UI password"], database, broken["extra"])
	file := filepath.Join(s.t.TempDir(), "archiver.yaml")
	require.NoError(s.t, os.WriteFile(file, []byte(yaml), 0o600))
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Env = append(env, "ARCHIVER_CONFIG="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(s.t, cmd.Start())
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	if err == nil {
		s.leaks = append(s.leaks, leak{"title of the process " + strings.Join(args, " "), string(title)})
	}
	_ = cmd.Wait() // most of them fail, as they should
	require.NoError(s.t, ctx.Err(), "%v with %v did not end: %s", args, broken, out.String())
	require.NotContains(s.t, out.String(), "goroutine ", "%v with %v", args, broken)
	s.leaks = append(s.leaks, leak{fmt.Sprintf("output of %v with %v", args, broken), out.String()})
}

// watch looks at the sessions of the server all the time, until it is told to end.
func (s *secretSite) watch(db *testkit.DB) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	seen := map[string]bool{}
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			rows, err := db.Pool.Query(ctx, `SELECT concat_ws(' ', application_name, query) FROM pg_stat_activity WHERE pid <> pg_backend_pid()`)
			if err == nil {
				var texts []string
				if texts, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
					for _, text := range texts {
						seen[text] = true
					}
				}
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
				if err != nil {
					done <- err
					return
				}
			}
		}
	}()
	return func() error {
		cancel()
		err := <-done
		for text := range seen {
			s.leaks = append(s.leaks, leak{"pg_stat_activity", text})
		}
		return err
	}
}
