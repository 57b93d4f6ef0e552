package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// account is what has been used so far, to be read before and after a contender.
type account struct {
	client, database, storage float64 // processor seconds
	wal                       float64 // bytes
}

func (b *bench) account(ctx context.Context) (account, error) {
	a := account{client: ownCPU(), database: cpuOf(b.pg.Pid()), storage: cpuOf(b.s3.Pid)}
	conn, err := pgx.Connect(ctx, b.pg.DSN("postgres"))
	if err != nil {
		return a, err
	}
	defer conn.Close(ctx) //nolint:errcheck // only read
	err = conn.QueryRow(ctx, "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8").Scan(&a.wal)
	return a, err
}

// begin starts a contender's account. One that has something to prepare calls it again.
func (b *bench) begin(ctx context.Context) (err error) {
	if err := b.resetStatements(ctx); err != nil {
		return err
	}
	b.before, err = b.account(ctx)
	return err
}

func (r *result) charge(before, after account, rows int) {
	r.ClientCPU = after.client - before.client
	r.DatabaseCPU = after.database - before.database
	r.StorageCPU = after.storage - before.storage
	r.WALPerRow = (after.wal - before.wal) / float64(rows)
}

// ownCPU is of this process and of its children that have ended: all contenders run in
// one or the other.
func ownCPU() float64 {
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total.Seconds()
}

// statementSettings make the server count its statements; see printStatements.
func (b *bench) statementSettings(settings map[string]string) {
	if b.statements > 0 {
		settings["shared_preload_libraries"] = "pg_stat_statements"
		settings["pg_stat_statements.track_planning"] = "on"
	}
}

func (b *bench) resetStatements(ctx context.Context) error {
	if b.statements == 0 {
		return nil
	}
	return b.sql(ctx, "postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()")
}

// printStatements shows what the server spent its time on.
func (b *bench) printStatements(ctx context.Context) error {
	if b.statements == 0 {
		return nil
	}
	conn, err := pgx.Connect(ctx, b.pg.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // only read
	rows, err := conn.Query(ctx, `SELECT sum(calls)::bigint, sum(total_plan_time), sum(total_exec_time), q
		FROM pg_stat_statements, LATERAL (SELECT left(regexp_replace(query, '[[:space:]]+', ' ', 'g'), 110) AS q) s
		GROUP BY q ORDER BY sum(total_plan_time + total_exec_time) DESC LIMIT $1`, b.statements)
	if err != nil {
		return err
	}
	defer rows.Close()
	fmt.Fprintf(os.Stderr, "%8s %10s %10s  %s\n", "calls", "plan ms", "exec ms", "statement")
	for rows.Next() {
		var calls int64
		var plan, exec float64
		var query string
		if err := rows.Scan(&calls, &plan, &exec, &query); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%8d %10.1f %10.1f  %s\n", calls, plan, exec, query)
	}
	return rows.Err()
}
