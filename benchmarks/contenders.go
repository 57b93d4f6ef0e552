package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// contender is one way to get the rows out of a database.
type contender struct {
	key, name string
	run       func(ctx context.Context, db string) (result, error)
}

func (b *bench) contenders() []contender {
	all := []contender{
		{"floor", "floor: ordered binary COPY to nowhere, DELETE", b.floor},
		{"hand", "by hand: psql COPY row_to_json, pigz, upload, DELETE; nothing verified", b.byHand},
	}
	for _, p := range profiles() {
		if p.name == b.profile || b.profile == "all" {
			all = append(all, contender{p.name, "archiver, " + p.title, func(ctx context.Context, db string) (result, error) {
				return b.ours(ctx, db, b.archiver, p)
			}})
		}
	}
	if b.compare != "" {
		all = append(all, contender{"compare", "the other archiver, default settings", func(ctx context.Context, db string) (result, error) {
			return b.ours(ctx, db, b.compare, profiles()[0])
		}})
	}
	return all
}

// profile is a configuration of the archiver: the keys of configs/NAME.yaml.
type profile struct {
	name, title        string
	defaults, s3, more string // YAML, within braces
	slow               bool   // storage behind a slow link
}

func profiles() []profile {
	return []profile{
		{name: "default", title: "default settings"},
		{name: "single-batch", title: "batches of a million rows", defaults: "batch_size: 1000000, max_batch_bytes: 16GiB, partition_by: none, adaptive_batch: {enabled: false}"},
		{name: "high-performance", title: "high-performance.yaml", defaults: "batch_size: 20000, connection_pool_size: 10, parallel_databases: true, max_parallel_databases: 4", s3: "multipart_threshold_mb: 5"},
		{name: "memory-constrained", title: "memory-constrained.yaml", defaults: "batch_size: 5000, connection_pool_size: 3, parallel_databases: false", s3: "multipart_threshold_mb: 20"},
		{name: "network-constrained", title: "network-constrained.yaml", defaults: "batch_size: 10000, connection_pool_size: 5, parallel_databases: false", s3: "multipart_threshold_mb: 10", slow: true},
	}
}

// floor is what no archiver on this server can beat.
func (b *bench) floor(ctx context.Context, db string) (result, error) {
	conn, err := pgx.Connect(ctx, b.pg.DSN(db))
	if err != nil {
		return result{}, err
	}
	defer conn.Close(ctx) //nolint:errcheck // the database is dropped next
	r := result{Phases: map[string]float64{}}
	r.Phases["query"], err = timed(func() error {
		_, err := conn.PgConn().CopyTo(ctx, io.Discard, "COPY (SELECT * FROM audit_logs ORDER BY created_at, id) TO STDOUT (FORMAT binary)")
		return err
	})
	if err != nil {
		return r, err
	}
	r.Phases["delete"], err = timed(func() error {
		_, err := conn.Exec(ctx, "DELETE FROM audit_logs")
		return err
	})
	r.Seconds = r.Phases["query"] + r.Phases["delete"]
	return r, err
}

// byHand is the pipeline that a careful user would type: no verification.
func (b *bench) byHand(ctx context.Context, db string) (result, error) {
	file := filepath.Join(b.dir, "by-hand.jsonl.gz")
	r := result{Phases: map[string]float64{}}
	var err error
	r.Phases["query, serialize, compress"], err = timed(func() error {
		return b.shell(ctx, `set -o pipefail; psql -X -qAt -c 'COPY (SELECT row_to_json(t) FROM audit_logs t ORDER BY created_at, id) TO STDOUT' "$1" | pigz > "$2"`, b.pg.DSN(db), file)
	})
	if err != nil {
		return r, err
	}
	r.Phases["upload"], err = timed(func() error { return b.upload(ctx, file) })
	if err != nil {
		return r, err
	}
	r.Phases["delete"], err = timed(func() error {
		return b.shell(ctx, `psql -X -q -c 'DELETE FROM audit_logs' "$1"`, b.pg.DSN(db))
	})
	for _, s := range r.Phases {
		r.Seconds += s
	}
	if info, err := os.Stat(file); err == nil {
		r.Stored = info.Size()
	}
	return r, errors.Join(err, os.Remove(file))
}

// ours runs the binary as a user would: plan, upload, verify, delete. With workers, so
// many replicas of one batch at a time share the work instead of `archiver run`.
func (b *bench) ours(ctx context.Context, db, binary string, p profile) (r result, err error) {
	bucket := strings.ReplaceAll(db, "_", "-")
	if err := b.s3.CreateBucket(ctx, bucket, false); err != nil {
		return r, err
	}
	if err := b.sql(ctx, "postgres", "CREATE DATABASE "+db+"_control"); err != nil {
		return r, err
	}
	endpoint := b.s3.Endpoint
	if p.slow || b.workers > 0 {
		link, err := newSlowLink(ctx, strings.TrimPrefix(endpoint, "http://"), b.roundTrip, b.megabytes*1e6)
		if err != nil {
			return r, err
		}
		defer link.close()
		endpoint = "http://" + link.addr
	}
	if b.workers > 0 {
		p.defaults = strings.TrimPrefix(fmt.Sprintf("%s, concurrency: %d", p.defaults, b.workers), ", ")
		p.more = "worker: {concurrency: 1, listen: \"\"}\nui: {enabled: false}\n"
	}
	file := filepath.Join(b.dir, db+".yaml")
	config := fmt.Sprintf("control: {url: %q}\ns3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q, %s}\ndefaults: {retention: 30d, %s}\n%sdatabases: [{name: bench, url: %q, tables: [{name: audit_logs}]}]\n",
		b.pg.DSN(db+"_control"), bucket, endpoint, b.s3.AccessKey, b.s3.SecretKey, p.s3, p.defaults, p.more, b.pg.DSN(db))
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, ", }", "}")), 0o600); err != nil {
		return r, err
	}
	if _, err := b.archive(ctx, binary, "migrate", "--config", file); err != nil {
		return r, err
	}
	if err := b.begin(ctx); err != nil {
		return r, err
	}
	if b.workers > 0 {
		r.Seconds, err = timed(func() error { return b.replicas(ctx, &r, binary, file) })
	} else {
		r.Seconds, err = timed(func() error {
			peak, err := b.archive(ctx, binary, "run", "--log-level", "warn", "--config", file)
			r.PeakMB = peak
			return err
		})
	}
	if err != nil {
		return r, err
	}
	return r, b.fromLedger(ctx, db+"_control", &r)
}

func (b *bench) replicas(ctx context.Context, r *result, binary, file string) error {
	if _, err := b.archive(ctx, binary, "plan", "--config", file); err != nil {
		return err
	}
	peaks := make([]float64, b.workers)
	g, ctx := errgroup.WithContext(ctx)
	for i := range peaks {
		g.Go(func() (err error) {
			peaks[i], err = b.archive(ctx, binary, "work", "--drain", "--log-level", "warn", "--config", file)
			return err
		})
	}
	err := g.Wait()
	for _, p := range peaks {
		r.PeakMB = max(r.PeakMB, p)
	}
	return err
}

// archive runs a command of the archiver and returns its peak memory.
func (b *bench) archive(ctx context.Context, binary string, args ...string) (peakMB float64, err error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("archiver %s: %w: %s", args[0], err, stderr.String())
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peakMB = float64(usage.Maxrss) / 1024
		if runtime.GOOS == "darwin" { // bytes there
			peakMB /= 1024
		}
	}
	return peakMB, nil
}

// fromLedger sums what the batches took, whichever process ran them, and sets the vacuum,
// which is part of the seconds so far, apart.
func (b *bench) fromLedger(ctx context.Context, control string, r *result) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN(control))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // only read
	var phases []byte
	err = conn.QueryRow(ctx, `SELECT count(DISTINCT b.id), (SELECT sum(stored_bytes)::bigint FROM archiver.batch WHERE state = 'archived'), (SELECT sum(raw_bytes)::bigint FROM archiver.object WHERE state = 'committed'),
		(SELECT json_object_agg(key, s) FROM (SELECT key, sum(value::float8) AS s FROM archiver.batch, jsonb_each_text(timings::jsonb) WHERE state = 'archived' GROUP BY key) p),
		(SELECT coalesce(sum((vacuum_result->>'seconds')::float8), 0) FROM archiver.run)
		FROM archiver.batch b WHERE b.state = 'archived'`).Scan(&r.Batches, &r.Stored, &r.Raw, &phases, &r.Vacuum)
	if err != nil {
		return err
	}
	r.Seconds -= r.Vacuum
	return json.Unmarshal(phases, &r.Phases)
}
