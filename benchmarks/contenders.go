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
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/benchmarks/program"
)

// contender is one way to get the rows out of a database.
type contender struct {
	key, name string
	slow      bool // storage is behind a slow link
	byHand    bool
	run       func(ctx context.Context, db string) (result, error)
}

// contenders are all that were asked for, in the order in which they run.
func (b *bench) contenders() []contender {
	var ours []contender
	for _, p := range profiles() {
		if p.name == b.profile || b.profile == "all" {
			p.slow = p.slow || b.workers > 0
			ours = append(ours, contender{key: p.name, name: "archiver, " + p.title, slow: p.slow, run: func(ctx context.Context, db string) (result, error) {
				return b.ours(ctx, db, b.archiver, p)
			}})
		}
	}
	if b.compare != "" {
		p := profiles()[0]
		p.slow = b.workers > 0
		ours = append(ours, contender{key: "compare", name: "the other archiver, default settings", slow: p.slow, run: func(ctx context.Context, db string) (result, error) {
			return b.ours(ctx, db, b.compare, p)
		}})
	}
	ours = slices.DeleteFunc(ours, func(c contender) bool { return !b.wants(c.key) })

	var all []contender
	if b.wants("floor") {
		all = append(all, contender{key: "floor", name: "floor: ordered binary COPY to nowhere, DELETE", run: b.floor})
	}
	hand := contender{key: "hand", name: "by hand: psql COPY row_to_json, pigz, upload, DELETE; nothing verified", byHand: true, run: func(ctx context.Context, db string) (result, error) {
		return b.byHand(ctx, db, false)
	}}
	if b.wants(hand.key) {
		all = append(all, hand)
	}
	// Who archives over a slow link is compared with who uploads over one.
	slow := contender{key: handSlow, name: "by hand over the slow link", slow: true, byHand: true, run: func(ctx context.Context, db string) (result, error) {
		return b.byHand(ctx, db, true)
	}}
	if slices.Contains(b.only, slow.key) || (b.wants(hand.key) && slices.ContainsFunc(ours, func(c contender) bool { return c.slow })) {
		all = append(all, slow)
	}
	return append(all, ours...)
}

const handSlow = "hand-slow"

func (b *bench) wants(key string) bool { return len(b.only) == 0 || slices.Contains(b.only, key) }

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
		tag, err := conn.PgConn().CopyTo(ctx, io.Discard, "COPY (SELECT * FROM audit_logs ORDER BY created_at, id) TO STDOUT (FORMAT binary)")
		r.Rows = tag.RowsAffected()
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

// findTools looks for what byHand runs, before rows are loaded for minutes.
func (b *bench) findTools() (err error) {
	if b.psql, err = program.Find("psql", b.pg.BinDir, "the package postgresql-client has it, for the pipeline by hand"); err != nil {
		return err
	}
	b.pigz, err = program.Find("pigz", b.pg.BinDir, "make bench-tools installs it, for the pipeline by hand")
	return err
}

// byHand is the pipeline that a careful user would type: no verification.
func (b *bench) byHand(ctx context.Context, db string, slow bool) (result, error) {
	r := result{Phases: map[string]float64{}}
	endpoints, closeLinks, err := b.storage(ctx, slow, 1)
	if err != nil {
		return r, err
	}
	defer closeLinks()
	bucket := bucketOf(db)
	if err := b.s3.CreateBucket(ctx, bucket, false); err != nil {
		return r, err
	}
	file := filepath.Join(b.dir, handObject)
	if err := b.begin(ctx); err != nil {
		return r, err
	}
	r.Phases["query, serialize, compress"], err = timed(func() error {
		_, err := b.shell(ctx, `set -o pipefail; "$1" -X -qAt -c 'COPY (SELECT row_to_json(t) FROM audit_logs t ORDER BY created_at, id) TO STDOUT' "$2" | "$4" > "$3"`, b.psql, b.pg.DSN(db), file, b.pigz)
		return err
	})
	if err != nil {
		return r, err
	}
	r.Phases["upload"], err = timed(func() error { return b.upload(ctx, endpoints[0], bucket, file) })
	if err != nil {
		return r, err
	}
	r.Phases["delete"], err = timed(func() error {
		tag, err := b.shell(ctx, `"$1" -X -c 'DELETE FROM audit_logs' "$2"`, b.psql, b.pg.DSN(db))
		if err != nil {
			return err
		}
		if _, err := fmt.Sscanf(tag, "DELETE %d", &r.Rows); err != nil {
			return fmt.Errorf("psql said %q: %w", tag, err)
		}
		return nil
	})
	for _, s := range r.Phases {
		r.Seconds += s
	}
	if info, err := os.Stat(file); err == nil {
		r.Stored = info.Size()
	}
	return r, errors.Join(err, os.Remove(file))
}

// storage returns so many ways to the S3 server. Slow ones are all the same link, or with
// linkEach a link each.
func (b *bench) storage(ctx context.Context, slow bool, n int) (endpoints []string, closeLinks func(), err error) {
	endpoints = slices.Repeat([]string{b.s3.Endpoint}, n)
	var links []*slowLink
	closeLinks = func() {
		for _, l := range links {
			l.close()
		}
	}
	if !slow {
		return endpoints, closeLinks, nil
	}
	for i := range endpoints {
		if i == 0 || b.linkEach {
			link, err := newSlowLink(ctx, strings.TrimPrefix(b.s3.Endpoint, "http://"), b.roundTrip, b.megabytes*1e6)
			if err != nil {
				closeLinks()
				return nil, nil, err
			}
			links = append(links, link)
		}
		endpoints[i] = "http://" + links[len(links)-1].addr
	}
	return endpoints, closeLinks, nil
}

// bucketOf is a contender's own bucket.
func bucketOf(db string) string { return strings.ReplaceAll(db, "_", "-") }

// ours runs the binary as a user would: plan, upload, verify, delete. With workers, so
// many replicas of one batch at a time share the work instead of `archiver run`.
func (b *bench) ours(ctx context.Context, db, binary string, p profile) (r result, err error) {
	bucket := bucketOf(db)
	if err := b.s3.CreateBucket(ctx, bucket, false); err != nil {
		return r, err
	}
	if err := b.sql(ctx, "postgres", "CREATE DATABASE "+db+"_control"); err != nil {
		return r, err
	}
	endpoints, closeLinks, err := b.storage(ctx, p.slow, max(b.workers, 1))
	if err != nil {
		return r, err
	}
	defer closeLinks()
	if b.workers > 0 {
		p.defaults = strings.TrimPrefix(fmt.Sprintf("%s, concurrency: %d", p.defaults, b.workers), ", ")
		p.more = "worker: {concurrency: 1, listen: \"\"}\nui: {enabled: false}\n"
	}
	file := filepath.Join(b.dir, db+".yaml")
	config := fmt.Sprintf("control: {url: %q}\ns3: {bucket: %q, endpoint: %q, access_key_id: %q, secret_access_key: %q, %s}\ndefaults: {retention: 30d, %s}\n%sdatabases: [{name: bench, url: %q, tables: [{name: audit_logs}]}]\n",
		b.pg.DSN(db+"_control"), bucket, endpoints[0], b.s3.AccessKey, b.s3.SecretKey, p.s3, p.defaults, p.more, b.pg.DSN(db))
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, ", }", "}")), 0o600); err != nil {
		return r, err
	}
	if _, err := b.archive(ctx, binary, nil, "migrate", "--config", file); err != nil {
		return r, err
	}
	if err := b.begin(ctx); err != nil {
		return r, err
	}
	if b.workers > 0 {
		r.Seconds, err = timed(func() error { return b.replicas(ctx, &r, binary, file, endpoints) })
	} else {
		r.Seconds, err = timed(func() error {
			peak, err := b.archive(ctx, binary, nil, "run", "--log-level", "warn", "--config", file)
			r.PeakMB = peak
			return err
		})
	}
	if err != nil {
		return r, err
	}
	return r, b.fromLedger(ctx, db+"_control", &r)
}

// replicas runs one at each of the endpoints.
func (b *bench) replicas(ctx context.Context, r *result, binary, file string, endpoints []string) error {
	if _, err := b.archive(ctx, binary, nil, "plan", "--config", file); err != nil {
		return err
	}
	peaks := make([]float64, len(endpoints))
	g, ctx := errgroup.WithContext(ctx)
	for i, endpoint := range endpoints {
		g.Go(func() (err error) {
			peaks[i], err = b.archive(ctx, binary, []string{"ARCHIVER_S3_ENDPOINT=" + endpoint}, "work", "--drain", "--log-level", "warn", "--config", file)
			return err
		})
	}
	err := g.Wait()
	for _, p := range peaks {
		r.PeakMB = max(r.PeakMB, p)
	}
	return err
}

// archive runs a command of the archiver, with more of an environment, and returns its
// peak memory: that of this process, some 25 MB, where it is larger, as Linux counts it.
func (b *bench) archive(ctx context.Context, binary string, environ []string, args ...string) (peakMB float64, err error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(cmd.Environ(), environ...)
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
	err = conn.QueryRow(ctx, `SELECT count(*), sum(rows)::bigint, (SELECT sum(stored_bytes)::bigint FROM archiver.batch WHERE state = 'archived'), (SELECT sum(raw_bytes)::bigint FROM archiver.object WHERE state = 'committed'),
		(SELECT json_object_agg(key, s) FROM (SELECT key, sum(value::float8) AS s FROM archiver.batch, jsonb_each_text(timings::jsonb) WHERE state = 'archived' GROUP BY key) p),
		(SELECT coalesce(sum((vacuum_result->>'seconds')::float8), 0) FROM archiver.run)
		FROM archiver.batch b WHERE b.state = 'archived'`).Scan(&r.Batches, &r.Rows, &r.Stored, &r.Raw, &phases, &r.Vacuum)
	if err != nil {
		return err
	}
	r.Seconds -= r.Vacuum
	return json.Unmarshal(phases, &r.Phases)
}
