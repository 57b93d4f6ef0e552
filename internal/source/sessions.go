package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// maxSessionName is how much of an application_name the server keeps.
const maxSessionName = 63

// The beginnings of the application_name of a replica's sessions. Vacuums have their own
// name, since they are no batch and count towards no limit of batches.
const (
	workerSession = "archiver worker "
	vacuumSession = "archiver vacuum "
)

// WorkerSession is the application_name of a replica's sessions: as much of the end of
// its id, which is unique, as fits.
func WorkerSession(id string) string {
	return workerSession + id[max(len(id)+len(workerSession)-maxSessionName, 0):]
}

// vacuumSessionOf is the name of the sessions in which the replica of the worker session
// vacuums. The two beginnings are of one length, so that it has the same end.
func vacuumSessionOf(session string) string {
	if id, ok := strings.CutPrefix(session, workerSession); ok {
		return vacuumSession + id
	}
	return session
}

// OwnSession says whether the server's session is this connection's own for as long as it
// lasts. A pooler between the two hands out keys of its own in the place of the server's.
func OwnSession(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var session uint32
	if err := conn.QueryRow(ctx, `/* archiver session */ SELECT pg_backend_pid()`).Scan(&session); err != nil {
		return false, err
	}
	return session == conn.PgConn().PID(), nil
}

// EndSessions ends the sessions that other replicas of this role hold on the primary
// and on the read replica, and waits a moment for each to be gone. What they had not
// committed is rolled back.
func (d *DB) EndSessions(ctx context.Context, workers []string) error {
	names := make([]string, 0, 2*len(workers))
	for _, w := range workers {
		session := WorkerSession(w)
		names = append(names, session, vacuumSessionOf(session))
	}
	err := endSessions(ctx, d.Pool, names)
	if d.replica != nil {
		if replicaErr := endSessions(ctx, d.replica.pool, names); replicaErr != nil {
			err = errors.Join(err, fmt.Errorf("on the read replica: %w", replicaErr))
		}
	}
	if err != nil {
		return fmt.Errorf("end sessions on database %s: %w", d.Name, err)
	}
	return nil
}

func endSessions(ctx context.Context, pool *pgxpool.Pool, names []string) error {
	_, err := pool.Exec(ctx, `/* archiver end sessions */
		SELECT pg_catalog.pg_terminate_backend(pid, 1000) FROM pg_catalog.pg_stat_activity
		WHERE application_name = ANY ($1) AND usename = current_user AND datname = current_database() AND pid <> pg_catalog.pg_backend_pid()`, names)
	return err
}
