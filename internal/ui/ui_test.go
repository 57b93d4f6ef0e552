package ui

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/audit-table-archiver/archiver/internal/testkit"
	"github.com/audit-table-archiver/archiver/jobs"
	"github.com/audit-table-archiver/archiver/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// served is a page on a database of its own, and one job in its queue.
type served struct {
	url  string
	http http.Client
}

func serve(t *testing.T, o Options) *served {
	t.Helper()
	db, ctx := testkit.Postgres(t), t.Context()
	o.Log, o.RiverLog = zap.NewNop(), slog.New(slog.DiscardHandler)
	_, _, err := migrations.Up(ctx, db.Pool, "archiver", o.RiverLog)
	require.NoError(t, err)
	client, err := river.NewClient(riverpgxv5.New(db.Pool), &river.Config{Schema: "archiver"})
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		_, err := client.InsertTx(ctx, tx, jobs.BatchArgs{BatchID: 1, RunID: 2, Database: "main", Table: "public.audit_logs", Range: "[a .. b]"}, nil)
		return err
	}))
	h, err := Handler(ctx, client, o)
	require.NoError(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return &served{url: server.URL, http: http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *served) get(t *testing.T, path string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	require.NoError(t, err)
	res, err := s.http.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body), res.Header
}

func TestServesThePageAndItsJobs(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{})
	code, _, header := s.get(t, "/")
	require.Equal(t, http.StatusFound, code)
	require.Equal(t, "/ui/", header.Get("Location"))

	code, body, header := s.get(t, "/ui/")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `"apiUrl":"/ui/api"`)
	require.Equal(t, "no-store", header.Get("Cache-Control"))
	script := body[strings.Index(body, "/ui/assets/"):]
	code, _, header = s.get(t, script[:strings.Index(script, `"`)])
	require.Equal(t, http.StatusOK, code, "the page brings its own files")
	require.NotEqual(t, "no-store", header.Get("Cache-Control"))

	code, body, _ = s.get(t, "/ui/api/jobs?state=available")
	require.Equal(t, http.StatusOK, code, body)
	if strings.Contains(body, `"data":[]`) { // batch jobs wait until they are admitted
		_, body, _ = s.get(t, "/ui/api/jobs?state=pending")
	}
	var list struct {
		Data []struct {
			Kind string   `json:"kind"`
			Args string   `json:"args"`
			Tags []string `json:"tags"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &list))
	require.Len(t, list.Data, 1, body)
	require.Equal(t, "archive_batch", list.Data[0].Kind)
	require.Contains(t, list.Data[0].Args, "[a .. b]", "the range in words")
	require.Equal(t, []string{"db_main", "table_public_audit_logs", "run_2"}, list.Data[0].Tags)

	code, _, _ = s.get(t, "/elsewhere")
	require.Equal(t, http.StatusNotFound, code)
}
