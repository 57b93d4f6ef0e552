package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
)

// sizes are what the audit table takes, in bytes, by PostgreSQL's own account.
type sizes struct{ rows, table, indexes int64 }

func (s *stage) measure(ctx context.Context) (sizes, error) {
	var z sizes
	err := s.source.QueryRow(ctx, `SELECT (SELECT count(*) FROM public.audit_logs), pg_table_size('public.audit_logs'), pg_indexes_size('public.audit_logs')`).
		Scan(&z.rows, &z.table, &z.indexes)
	if err != nil {
		return z, fmt.Errorf("measure the audit table: %w", err)
	}
	return z, nil
}

// report shows what the story came to. prove has run.
func (s *story) report(ctx context.Context) error {
	s.block(s.sizesTable())
	s.linef("")
	if err := s.showTimes(ctx); err != nil {
		return err
	}
	s.linef("")
	s.linef("The bucket (the manifest beside an object says that its batch is committed):")
	s.block(tree(bucketName, s.contents.entries))
	s.linef("")
	s.linef("Archived rows, from the first, a middle and the last object (archiver cat shows them whole):")
	samples := s.contents.samples
	for _, i := range slices.Compact([]int{0, len(samples) / 2, len(samples) - 1}) {
		s.linef("%s", s.fit(samples[i]))
	}
	return nil
}

func (s *story) sizesTable() string {
	var objects, manifests, manifestBytes, objectBytes int64
	for _, e := range s.contents.entries {
		switch {
		case strings.HasSuffix(e.key, manifestSuffix):
			manifests, manifestBytes = manifests+1, manifestBytes+e.bytes
		case strings.HasSuffix(e.key, rowsSuffix):
			objects, objectBytes = objects+1, objectBytes+e.bytes
		}
	}
	perRow := func(bytes, rows int64) string { return fmt.Sprintf("%d bytes a row", bytes/rows) }
	var b strings.Builder
	row := func(name, before, after, note string) {
		fmt.Fprintf(&b, "%-18s%12s%12s   %s\n", name, before, after, note)
	}
	row("", "before", "after", "")
	row("rows in the table", humanize.Comma(s.before.rows), humanize.Comma(s.after.rows), "")
	row("table", size(s.before.table), size(s.after.table), perRow(s.before.table, s.before.rows)+" before")
	row("its indexes", size(s.before.indexes), size(s.after.indexes), perRow(s.before.indexes, s.before.rows)+" before")
	row("rows in objects", "0", humanize.Comma(s.archived.objectRows), "")
	row(count(objects, "object"), "-", size(objectBytes), perRow(objectBytes, s.archived.objectRows))
	row(count(manifests, "manifest"), "-", size(manifestBytes), "")
	return b.String() +
		"The table's file does not shrink: the room of the deleted rows is free for new ones.\n" +
		"To give it back to the disk: VACUUM FULL (locks the table) or pg_repack.\n"
}

// showTimes shows the seconds of each phase, from the ledger.
func (s *story) showTimes(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(controlDatabase))
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is lost with it
	const sumsOfPhases = `
		SELECT t.key, sum(t.value::float8) FROM archiver.batch b, jsonb_each_text(b.timings) t WHERE b.state = 'archived' GROUP BY 1`
	rows, err := conn.Query(ctx, sumsOfPhases) //nolint:rowserrcheck // ForEachRow checks it
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	sums := map[string]float64{}
	var phase string
	var sum float64
	if _, err := pgx.ForEachRow(rows, []any{&phase, &sum}, func() error { sums[phase] = sum; return nil }); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	s.linef("Seconds in each phase, summed over all batches (several run at a time):")
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, phase := range []string{"query", "serialize", "compress", "upload", "verify", "delete", "record"} {
		fmt.Fprintf(w, "%s\t%6.2f\t%s\n", phase, sums[phase], strings.Repeat("#", share(sums[phase], sums["total"])))
	}
	_ = w.Flush() // to memory
	s.block(b.String())
	s.linef("%s rows archived in %s by two workers, their start included: %s rows/s", humanize.Comma(s.archived.objectRows),
		seconds(s.working), humanize.Comma(int64(float64(s.archived.objectRows)/s.working.Seconds())))
	return nil
}

// share is the length of a bar.
func share(part, whole float64) int {
	const longest = 40
	if whole <= 0 {
		return 0
	}
	return int(longest*part/whole + 0.5)
}

func size(bytes int64) string { return humanize.IBytes(uint64(bytes)) }

// count is a number with its noun.
func count[N int | int64](n N, noun string) string {
	text := humanize.Comma(int64(n)) + " " + noun
	if n == 1 {
		return text
	}
	if strings.HasSuffix(noun, "ch") {
		return text + "es"
	}
	return text + "s"
}
