package ui

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// The exit codes of the contract.
const (
	done        = 0
	badUsage    = 10
	notMigrated = 11
	unreachable = 13
	interrupted = 130
)

func TestUICommandServesUntilItIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for sig, code := range map[syscall.Signal]int{syscall.SIGTERM: done, syscall.SIGINT: interrupted} {
		p := s.serve(t, "ui")
		p.signal(t, sig)
		require.Contains(t, p.end(t, code), "River UI: "+s.url())
	}
	// The flag wins over the file, and ui.enabled is about workers only.
	s.ui += ", enabled: false"
	s.configure(t)
	s.listen = freeAddress(t)
	p := s.serve(t, "ui", "--listen", s.listen)
	p.signal(t, syscall.SIGTERM)
	require.Contains(t, p.end(t, done), s.url())
}

func TestUICommandSaysWhyItCannotServe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	taken := s.serve(t, "ui")
	out := s.run(t, badUsage, "ui")
	require.Contains(t, out, "address already in use")
	require.Contains(t, out, "hint: ")
	taken.signal(t, syscall.SIGTERM)
	taken.end(t, done)

	require.Contains(t, s.run(t, badUsage, "ui", "--listen", "nonsense"), "ui.listen: is not an address to listen on")
	require.Contains(t, s.run(t, badUsage, "ui", "--listen", "192.0.2.1:8081"), "cannot assign requested address")
	s.ui = ""
	s.configure(t)
	require.Contains(t, s.run(t, badUsage, "ui", "--listen", ":8081"), "can be reached from other machines")

	bare := *s
	bare.db = testkit.Postgres(t)
	bare.configure(t)
	require.Contains(t, bare.run(t, notMigrated, "ui"), "archiver migrate")
	bare.db = &testkit.DB{DSN: "postgres://archiver@127.0.0.1:1/away"}
	bare.configure(t)
	require.Contains(t, bare.run(t, unreachable, "ui"), "control database")
}

// TestWorkersShareAnAddress starts two replicas on one host: both work, one serves.
func TestWorkersShareAnAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.serve(t, "work")
	second := s.start(t, "work")
	testkit.Eventually(t, soon, func() bool {
		return s.db.Int(t, `SELECT count(*) FROM archiver.worker`) == 2 && strings.Contains(second.out.String(), "ui.listen is taken")
	}, "the second replica works and warns")
	require.Contains(t, second.out.String(), s.listen)
	require.Contains(t, first.out.String(), "serving River UI")
	for _, p := range []*process{second, first} {
		p.signal(t, syscall.SIGTERM)
		require.NotContains(t, p.end(t, done), password)
	}

	s.ui = ", enabled: false"
	s.configure(t)
	require.NotContains(t, s.run(t, done, "work", "--drain"), "River UI")
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve(t, "ui")
	status := func(login func(*http.Request)) int {
		r := s.request(t, http.MethodGet, "/ui/api/jobs", "")
		r.Header.Del("Authorization")
		login(r)
		res, err := s.http.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		return res.StatusCode
	}
	require.Equal(t, 401, status(func(*http.Request) {}))
	require.Equal(t, 401, status(func(r *http.Request) { r.SetBasicAuth(username, "wrong horse") }))
	require.Equal(t, 200, status(func(r *http.Request) { r.SetBasicAuth(username, password) }))
	p.signal(t, syscall.SIGTERM)
	out := p.end(t, done)
	require.Contains(t, out, "a login was refused")
	require.NotContains(t, out, "horse", "no password in the log")
}

// TestReadOnly asks for every change that the page can ask for.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.ui += ", read_only: true"
	s.configure(t)
	s.run(t, done, "plan")
	s.serve(t, "ui")
	_, id := s.oldest(t)
	before := s.db.Text(t, `SELECT string_agg(j::text, E'\n' ORDER BY id) FROM archiver.river_job j`)
	ids := fmt.Sprintf(`{"ids":["%d"]}`, id)
	for _, c := range [][2]string{
		{http.MethodPost, "/ui/api/jobs/retry"},
		{http.MethodPost, "/ui/api/jobs/cancel"},
		{http.MethodPost, "/ui/api/jobs/delete"},
		{http.MethodPut, "/ui/api/queues/db_main/pause"},
		{http.MethodPut, "/ui/api/queues/db_main/resume"},
		{http.MethodPatch, "/ui/api/queues/db_main"},
	} {
		var answer struct{ Message string }
		require.Equal(t, http.StatusForbidden, s.do(t, c[0], c[1], ids, &answer), c)
		require.Contains(t, answer.Message, "read-only", c)
	}
	require.Equal(t, before, s.db.Text(t, `SELECT string_agg(j::text, E'\n' ORDER BY id) FROM archiver.river_job j`))
	require.Equal(t, http.StatusOK, s.do(t, http.MethodGet, fmt.Sprintf("/ui/api/jobs/%d", id), "", nil))
}
