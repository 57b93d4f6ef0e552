//go:build failpoint

package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/worker"
)

// TestGrants runs the whole path with a role that has exactly configs/grants.sql.
func TestGrants(t *testing.T) {
	t.Parallel()
	s := newSite(t, "- name: audit_logs")
	s.db.Exec(t, auditTable)
	s.db.Exec(t, fillAudit)
	role, dsn := s.db.Role(t)

	db := s.cfg.Databases[0]
	db.Primary = config.Secret(dsn)
	limited, err := source.Open(t.Context(), db, "test")
	require.NoError(t, err)
	t.Cleanup(limited.Close)
	table := db.Tables[0]

	s.db.Exec(t, `GRANT USAGE ON SCHEMA public TO `+role)
	_, findings, err := limited.Preflight(t.Context(), table)
	require.NoError(t, err)
	var hints []string
	for _, f := range source.Refusals(findings) {
		require.Equal(t, "missing_privilege", f.Code)
		hints = append(hints, f.Hint)
	}
	require.Len(t, hints, 2, "SELECT, DELETE")
	for _, h := range hints {
		require.Regexp(t, `^GRANT (SELECT|DELETE) ON "public"."audit_logs" TO `, h)
	}

	psql := exec.CommandContext(t.Context(), "psql", "-X", "-v", "ON_ERROR_STOP=1", "-v", "role="+role, "-v", "schema=public", "-v", "table=audit_logs",
		"-f", filepath.Join(testkit.ModuleRoot(t), "configs", "grants.sql"), s.db.DSN)
	out, err := psql.CombinedOutput()
	require.NoError(t, err, string(out))

	s.src = limited
	old := s.db.Int(t, `SELECT count(*) FROM audit_logs WHERE created_at < now() - interval '30 days'`)
	s.plan(t)
	s.drain(t, nil)
	require.Len(t, s.committed(t), int(old))
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM audit_logs WHERE created_at < now() - interval '30 days'`))
}

// TestIAMPolicy runs the whole path, a multipart upload included, and refuses every
// request to storage that configs/iam-policy.json does not allow.
func TestIAMPolicy(t *testing.T) {
	t.Parallel()
	var policy struct {
		Statement []struct {
			Effect   string
			Action   []string
			Resource string
		}
	}
	raw, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), "configs", "iam-policy.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &policy))
	guard := &policyGuard{allowed: map[string]bool{}, used: map[string]bool{}}
	for _, st := range policy.Statement {
		require.Equal(t, "Allow", st.Effect)
		for _, a := range st.Action {
			require.NotContains(t, a, "Delete")
			guard.allowed[a] = true
		}
	}

	s := newSite(t, "- {name: audit_logs, compression: none, batch_size: 1000, max_batch_bytes: 100MB, partition_by: none}")
	s.db.Exec(t, auditTable)
	s.db.Exec(t, fillAudit)
	s.db.Exec(t, `UPDATE audit_logs SET actor = repeat(md5(id::text), 1000)`)
	c := worker.StoreConfig(s.cfg.S3)
	c.MultipartThreshold = 6 << 20
	c.Transport = func(next http.RoundTripper) http.RoundTripper { guard.next = next; return guard }
	s.store, err = objstore.Open(t.Context(), c)
	require.NoError(t, err)
	_, err = s.store.Probe(t.Context())
	require.NoError(t, err)
	s.plan(t)
	s.drain(t, nil)
	require.NotEmpty(t, s.committed(t))
	for _, err := range s.store.List(t.Context(), "pre/") {
		require.NoError(t, err)
	}
	require.Empty(t, guard.denied)
	for _, a := range []string{"s3:PutObject", "s3:GetObject", "s3:ListBucket"} {
		require.True(t, guard.used[a], a)
	}
	require.True(t, guard.multipart, "the test must upload in parts")
}

// policyGuard stands before the network and answers 403 as S3 would.
type policyGuard struct {
	next      http.RoundTripper
	allowed   map[string]bool
	mu        sync.Mutex
	used      map[string]bool
	denied    []string
	multipart bool
}

func (g *policyGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	action := actionOf(r)
	g.mu.Lock()
	g.used[action] = true
	g.multipart = g.multipart || r.URL.Query().Has("uploads")
	if !g.allowed[action] {
		g.denied = append(g.denied, r.Method+" "+r.URL.String()+": "+action)
	}
	g.mu.Unlock()
	if !g.allowed[action] {
		return &http.Response{
			StatusCode: http.StatusForbidden, Request: r, Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(`<Error><Code>AccessDenied</Code></Error>`)),
		}, nil
	}
	return g.next.RoundTrip(r)
}

// actionOf is the IAM action that a request needs.
func actionOf(r *http.Request) string {
	q := r.URL.Query()
	object := strings.Count(strings.Trim(r.URL.Path, "/"), "/") > 0
	switch {
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "s3:AbortMultipartUpload"
	case r.Method == http.MethodPut && object, r.Method == http.MethodPost && object && (q.Has("uploads") || q.Has("uploadId")):
		return "s3:PutObject"
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && object && q.Has("versionId"):
		return "s3:GetObjectVersion"
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && object:
		return "s3:GetObject"
	case r.Method == http.MethodGet && q.Has("uploads"):
		return "s3:ListBucketMultipartUploads"
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return "s3:ListBucket"
	}
	return "unknown: " + r.Method + " " + r.URL.String()
}
