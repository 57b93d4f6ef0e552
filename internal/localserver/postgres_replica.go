package localserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// StartReplica starts a streaming hot standby of the cluster, in a run directory
// of its own, while the cluster goes on working. The caller must Stop it. It
// streams without a replication slot; its application_name in pg_stat_replication
// is "replica". A cluster with tablespaces is not supported.
func (p *Postgres) StartReplica(ctx context.Context) (_ *Postgres, err error) {
	o := p.options
	o.BinDir, o.DataDir, o.Port = p.BinDir, "", 0
	r, err := newPostgres(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Stop())
		}
	}()
	if err := r.prepareDataDir(); err != nil {
		return nil, err
	}
	if err := p.copyTo(ctx, r); err != nil {
		return nil, fmt.Errorf("copy the primary: %w", err)
	}
	if err := r.follow(p); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// copyTo takes a base backup of the running cluster. It does by hand what
// pg_basebackup does, because not every installation has that program.
func (p *Postgres) copyTo(ctx context.Context, r *Postgres) error {
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return err
	}
	// The server ends a backup whose connection is gone.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()

	begin, end := "select pg_backup_start('replica', true)", "select labelfile from pg_backup_stop(false)"
	if numbers(p.Version)[0] < 15 {
		begin, end = "select pg_start_backup('replica', true, false)", "select labelfile from pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return err
	}
	if err := copyCluster(p.DataDir, r.DataDir); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return err
	}
	// It tells the replica where to begin, which must be before the copy began.
	return os.WriteFile(filepath.Join(r.DataDir, "backup_label"), []byte(label), 0o600)
}

// copyCluster copies the files of a running cluster but for those that a server
// makes anew. A file may change or go while it is copied: the WAL since the backup
// began sets that right.
func copyCluster(from, to string) error {
	skippedContents := []string{
		"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
	}
	skippedFiles := []string{"postmaster.pid", "postmaster.opts", "pg_internal.init"}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if err := os.MkdirAll(filepath.Join(to, name), 0o700); err != nil {
				return err
			}
			if slices.Contains(skippedContents, name) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || slices.Contains(skippedFiles, d.Name()) || strings.HasPrefix(d.Name(), "pgsql_tmp") {
			return nil
		}
		return copyFile(path, filepath.Join(to, name))
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// follow makes a copied cluster a standby of the primary, and gives its files to
// the server's account.
func (p *Postgres) follow(primary *Postgres) error {
	conninfo := fmt.Sprintf("host=127.0.0.1 port=%d user=%s application_name=replica", primary.Port, primary.Superuser)
	if err := p.appendFile("postgresql.auto.conf", "primary_conninfo = '"+conninfo+"'\n"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.DataDir, "standby.signal"), nil, 0o600); err != nil {
		return fmt.Errorf("configure the replica: %w", err)
	}
	if p.account == nil {
		return nil
	}
	if err := chownAll(p.DataDir, p.account); err != nil {
		return fmt.Errorf("configure the replica: %w", err)
	}
	return nil
}

func chownAll(dir string, account *syscall.Credential) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(account.Uid), int(account.Gid)) //nolint:gosec // nobody else can write there until the server starts
	})
}

// Promote makes a replica a primary on a new timeline, and returns when it accepts
// writes.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("promote the replica: %w", err)
	}
	// Closing loses nothing: the promotion does not hang on the connection.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var done bool
	if err := conn.QueryRow(ctx, "select pg_promote(true, 60)").Scan(&done); err != nil {
		return fmt.Errorf("promote the replica: %w", err)
	}
	if !done {
		return errors.New("promote the replica: it was not done after 60 s")
	}
	return nil
}
