package testkit

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// PgBouncer starts PgBouncer in front of a cluster, in "transaction" or "session"
// mode, with few connections to the server, and returns its address. It lets everyone
// in. It ends with the test. The program comes with the system's package pgbouncer,
// which make deps installs where it may.
func PgBouncer(t testing.TB, p *localserver.Postgres, mode string) (addr string) {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // Debian's place, which is not on every user's PATH
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatal("there is no pgbouncer: install the system's package of that name (apt-get install pgbouncer, dnf install pgbouncer, brew install pgbouncer), or run make deps as root")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr = l.Addr().String()
	require.NoError(t, l.Close())
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)

	dir := t.TempDir()
	// With auth_type any every client is the user of the database's entry.
	settings := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = 4
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
`, p.Port, p.Superuser, port, mode)
	file := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(file, []byte(settings), 0o600))
	args := []string{"-q", file}
	if os.Geteuid() == 0 { // it refuses to run as root, and reads its file before it becomes another
		account, err := user.Lookup("nobody")
		require.NoError(t, err)
		args = []string{"-q", "-u", account.Username, file}
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	front := *p
	front.Port = number
	EventuallyNoError(t, 10*time.Second, func() error {
		conn, err := pgx.Connect(t.Context(), front.DSN("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	}, "pgbouncer answers")
	return addr
}
