package source

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// maxSessionName is how much of an application_name the server keeps.
const maxSessionName = 63

// WorkerSession is the application_name of a replica's sessions: as much of the end of
// its id, which is unique, as fits.
func WorkerSession(id string) string {
	const name = "archiver worker "
	return name + id[max(len(id)+len(name)-maxSessionName, 0):]
}

// EndSessions ends the sessions that other replicas of this role hold on the primary
// and on the read replica, and waits a moment for each to be gone. What they had not
// committed is rolled back.
func (d *DB) EndSessions(ctx context.Context, workers []string) error {
	names := make([]string, len(workers))
	for i, w := range workers {
		names[i] = WorkerSession(w)
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
