package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/source"
	"github.com/audit-table-archiver/archiver/migrations"
	"github.com/audit-table-archiver/archiver/worker"
)

func (c *cli) migrateCommand() *cobra.Command {
	var status bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the control schema (ledger and queue)",
		Long: `Create or upgrade the control schema: the ledger and the tables of the job queue, in
the schema control.schema of the database control.url. The database itself must be
there. It may be run at any time, by several processes at once: one works and the
others find it done. A schema that a later release has migrated is left alone.

With --status nothing is changed: both versions are printed, and the exit code is 0 if
this binary can work with them, else 11.

Examples:
  archiver migrate
  archiver migrate --status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.load()
			if err != nil {
				return err
			}
			if err := a.openControl(cmd.Context()); err != nil {
				return err
			}
			defer a.close()
			if status {
				return c.migrateStatus(cmd.Context(), a)
			}
			return c.migrate(cmd.Context(), a)
		},
	}
	cmd.Flags().BoolVar(&status, "status", false, "print the versions and change nothing")
	return c.jsonFlag(cmd)
}

func (c *cli) migrate(ctx context.Context, a *app) error {
	schema := a.cfg.Control.Schema
	before, after, err := migrations.Up(ctx, a.control, schema, worker.RiverLogger(a.log))
	if err != nil {
		err = fmt.Errorf("migrate control schema %s: %w", schema, err)
		if source.Classify(err) == source.Refused {
			return &exitError{code: exitFailed, err: err, hint: "the role of control.url must own the schema or may create it: " +
				"CREATE SCHEMA " + schema + " AUTHORIZATION <role>, or GRANT CREATE ON DATABASE ... TO <role>"}
		}
		return err
	}
	switch {
	case c.json:
		return c.printJSON(struct {
			Schema string         `json:"schema"`
			Before schemaVersions `json:"before"`
			After  schemaVersions `json:"after"`
		}{schema, versionsOf(before), versionsOf(after)})
	case before == after:
		c.printf("control schema %s is up to date (ledger %d, river %d)\n", schema, after.Ledger, after.River)
	default:
		c.printf("control schema %s migrated: ledger %d -> %d, river %d -> %d\n", schema, before.Ledger, after.Ledger, before.River, after.River)
	}
	return nil
}

type schemaVersions struct {
	Ledger int `json:"ledger"`
	River  int `json:"river"`
}

func versionsOf(s migrations.Status) schemaVersions {
	return schemaVersions{Ledger: s.Ledger, River: s.River}
}

func (c *cli) migrateStatus(ctx context.Context, a *app) error {
	schema := a.cfg.Control.Schema
	s, err := migrations.Read(ctx, a.control, schema)
	if err != nil {
		return err
	}
	if c.json {
		err = c.printJSON(struct {
			Schema   string         `json:"schema"`
			Current  bool           `json:"current"`
			Newer    bool           `json:"newer"`
			Versions schemaVersions `json:"versions"`
			Wanted   schemaVersions `json:"wanted"`
		}{schema, s.Current(), s.Newer(), versionsOf(s), schemaVersions{Ledger: s.LedgerWant, River: s.RiverWant}})
	} else {
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "SCHEMA %s\tVERSION\tTHIS BINARY\n", schema)
		fmt.Fprintf(w, "ledger\t%d\t%d\n", s.Ledger, s.LedgerWant)
		fmt.Fprintf(w, "river\t%d\t%d\n", s.River, s.RiverWant)
		err = w.Flush()
	}
	if err == nil && !s.Current() {
		err = &migrations.NotMigratedError{Schema: schema, Status: s}
	}
	return err
}
