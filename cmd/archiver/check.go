package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/objstore"
	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

func (c *cli) checkCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at everything that could go wrong, and change nothing",
		Long: `Look at everything that archiving needs, and report all that is found at once: the
configuration, the control database and its schema, each source database and its read
replica, and for each table its key, indexes, foreign keys, triggers, policies, replication
and this role's privileges; the bucket (one small object is written, read back, and kept);
the spool folder. Nothing else is written anywhere.

Severities: refuse (the table is not archived before this is settled), warn (know this
first), info.

The exit code is that of the worst finding: 13 if a service cannot be reached or used,
12 if a table is refused, 11 if only the migration is missing, 10 for the spool folder.

Examples:
  archiver check
  archiver check --database orders --table public.audit_logs
  archiver check --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.check(cmd.Context(), s) },
	}
	s.flags(cmd)
	return c.jsonFlag(cmd)
}

// flags adds --database and --table to a command.
func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().Var((*name)(&s.database), "database", "only this `DATABASE` of the configuration")
	cmd.Flags().Var((*name)(&s.table), "table", "only this `TABLE`, as schema.table")
}

// checkFinding is one line of the report.
type checkFinding struct {
	Database string          `json:"database"` // empty for what serves all databases
	Table    string          `json:"table"`    // empty for the database as a whole
	Code     string          `json:"code"`
	Severity source.Severity `json:"severity"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint"`
	exit     int             // that it leads to, if it refuses
}

// section is one thing that is looked at, and what was found.
type section struct {
	title    string
	look     func(context.Context) []checkFinding
	findings []checkFinding
}

func (c *cli) check(ctx context.Context, s selection) error {
	a, err := c.load()
	if err != nil {
		return err
	}
	defer a.close()
	tables, err := a.tables(s)
	if err != nil {
		return err
	}
	sections := a.sections(tables)
	var g errgroup.Group
	g.SetLimit(8) // a server that is away costs its own time-out, not everybody's
	for _, s := range sections {
		g.Go(func() error { s.findings = s.look(ctx); return nil })
	}
	_ = g.Wait() // what goes wrong is a finding
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	findings := []checkFinding{}
	for _, s := range sections {
		findings = append(findings, s.findings...)
	}
	verdict := checkVerdict(findings)
	if c.json {
		if err := c.printJSON(struct {
			OK       bool           `json:"ok"`
			Findings []checkFinding `json:"findings"`
		}{verdict == nil, findings}); err != nil {
			return err
		}
		return verdict
	}
	c.printSections(sections)
	if verdict == nil {
		warnings := 0
		for _, f := range findings {
			if f.Severity == source.Warn {
				warnings++
			}
		}
		c.printf("\nok: %s can be archived, %s; next: archiver plan --dry-run\n", plural(int64(len(tables)), "table", "tables"), plural(int64(warnings), "warning", "warnings"))
	}
	return verdict
}

// checkVerdict is nil unless something is refused.
func checkVerdict(findings []checkFinding) error {
	worst, refused := exitDone, 0
	rank := map[int]int{exitUsage: 1, exitNotMigrated: 2, exitRefused: 3, exitUnreachable: 4}
	hint := ""
	for _, f := range findings {
		if f.Severity != source.Refuse {
			continue
		}
		refused++
		if rank[f.exit] > rank[worst] {
			worst, hint = f.exit, f.Hint
		}
	}
	if refused == 0 {
		return nil
	}
	if refused > 1 {
		hint = "each finding above says how to settle it; then run archiver check again"
	}
	return &exitError{code: worst, err: fmt.Errorf("not ready: %s; nothing was changed", plural(int64(refused), "problem", "problems")), hint: hint}
}

func (c *cli) printSections(sections []*section) {
	for i, s := range sections {
		if i > 0 {
			c.printf("\n")
		}
		c.printf("%s\n", s.title)
		table := ""
		for _, f := range s.findings {
			if f.Table != table {
				table = f.Table
				c.printf("  %s\n", table)
			}
			indent := "  "
			if f.Table != "" {
				indent = "    "
			}
			c.printFinding(indent, f.Severity, f.Code, f.Message, f.Hint)
		}
		if len(s.findings) == 0 {
			c.printf("  ok\n")
		}
	}
}

func (c *cli) printFinding(indent string, severity source.Severity, code, message, hint string) {
	c.printf("%s%-6s %s: %s\n", indent, severity, code, message)
	if hint != "" {
		c.printf("%s       hint: %s\n", indent, hint)
	}
}

// sections are independent of each other, so that one service that is away hides
// nothing about the others.
func (a *app) sections(tables []config.Table) []*section {
	out := []*section{
		{title: "control database, schema " + a.cfg.Control.Schema, look: a.checkControl},
		{title: "storage " + strings.TrimSuffix("s3://"+a.cfg.S3.Bucket+"/"+a.cfg.S3.Prefix, "/"), look: a.checkStore},
		{title: "spool folder", look: a.checkSpool},
	}
	for _, d := range a.cfg.Databases {
		var mine []config.Table
		for _, t := range tables {
			if t.Database == d.Name {
				mine = append(mine, t)
			}
		}
		if len(mine) > 0 {
			out = append(out, &section{title: "database " + d.Name, look: func(ctx context.Context) []checkFinding { return checkSource(ctx, d, mine) }})
		}
	}
	return out
}

func (a *app) checkControl(ctx context.Context) []checkFinding {
	refuse := func(code string, exit int, message, hint string) []checkFinding {
		return []checkFinding{{Code: code, Severity: source.Refuse, Message: message, Hint: hint, exit: exit}}
	}
	if err := a.openControl(ctx); err != nil {
		return refuse("control_unreachable", exitUnreachable, flat(err), hintOf(err))
	}
	grants, err := a.ledger.MissingPrivileges(ctx)
	if err != nil {
		return refuse("control_unreachable", exitUnreachable, flat(err), hintOf(err))
	}
	if len(grants) > 0 {
		return refuse("control_privilege", exitRefused, "this role may not use all of the control schema "+a.cfg.Control.Schema, strings.Join(grants, "; "))
	}
	err = migrations.Check(ctx, a.control, a.cfg.Control.Schema)
	var not *migrations.NotMigratedError
	switch {
	case errors.As(err, &not):
		return refuse("not_migrated", exitNotMigrated, not.Error(), not.Hint())
	case err != nil:
		return refuse("control_unreachable", exitUnreachable, flat(err), hintOf(err))
	}
	return nil
}

func (a *app) checkStore(ctx context.Context) []checkFinding {
	c := worker.StoreConfig(a.cfg.S3)
	c.Retry.MaxAttempts = min(c.Retry.MaxAttempts, 2) // the answer is for somebody who waits
	store, err := objstore.Open(ctx, c)
	if err != nil {
		return []checkFinding{{Code: "storage_configuration", Severity: source.Refuse, Message: flat(err), Hint: "see the section s3 of the configuration", exit: exitUsage}}
	}
	defer store.Close()
	probe, err := store.Probe(ctx)
	if err != nil {
		f := checkFinding{Code: "bucket_unusable", Severity: source.Refuse, Message: flat(err), Hint: hintOf(err), exit: exitUnreachable}
		if objstore.IsUnavailable(err) {
			f.Code = "storage_unreachable"
		}
		return []checkFinding{f}
	}
	var out []checkFinding
	if !probe.Conditional {
		out = append(out, checkFinding{
			Code: "no_conditional_writes", Severity: source.Warn,
			Message: "the store overwrites an object although it was told not to (If-None-Match); the content hash in each key still keeps objects apart",
			Hint:    "turn on versioning or object lock for the bucket",
		})
	}
	if !probe.Versioned {
		out = append(out, checkFinding{
			Code: "bucket_not_versioned", Severity: source.Info,
			Message: "the bucket keeps no versions: an object that somebody overwrites or deletes is lost",
			Hint:    "turn on versioning for the bucket",
		})
	}
	return out
}

func (a *app) checkSpool(context.Context) []checkFinding {
	if err := worker.CheckSpool(a.cfg.Worker.SpoolDir); err != nil {
		return []checkFinding{{Code: "spool_unwritable", Severity: source.Refuse, Message: flat(err), Hint: hintOf(err), exit: exitUsage}}
	}
	return nil
}

func checkSource(ctx context.Context, d config.Database, tables []config.Table) []checkFinding {
	trouble := func(table string, err error) checkFinding {
		f := checkFinding{Database: d.Name, Table: table, Code: "source_unreachable", Severity: source.Refuse, Message: flat(err), Hint: hintOf(err), exit: exitUnreachable}
		var old *source.VersionError
		switch {
		case errors.As(err, &old):
			f.Code, f.Hint = "server_too_old", "upgrade the server, or take the database out of the configuration"
		case exitCode(ctx, err) != exitUnreachable:
			f.Code, f.exit = "preflight_failed", exitRefused
		}
		return f
	}
	db, err := source.Open(ctx, d, "archiver check")
	if err != nil {
		return []checkFinding{trouble("", err)}
	}
	defer db.Close()
	if err := db.Ping(ctx); err != nil {
		return []checkFinding{trouble("", err)}
	}
	out := checkReplica(ctx, db, tables)
	overlaps, err := db.Overlaps(ctx, d.Tables)
	if err != nil {
		out = append(out, trouble("", err))
	}
	for _, t := range tables {
		name := t.Schema + "." + t.Name
		_, findings, err := db.Preflight(ctx, t)
		if err != nil {
			out = append(out, trouble(name, err))
		}
		for i, other := range d.Tables {
			if other.Schema == t.Schema && other.Name == t.Name {
				findings = append(findings, overlaps[i]...)
			}
		}
		for _, f := range findings {
			out = append(out, checkFinding{Database: d.Name, Table: name, Code: f.Code, Severity: f.Severity, Message: f.Message, Hint: f.Hint, exit: exitRefused})
		}
	}
	return out
}
