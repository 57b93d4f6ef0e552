package main

import (
	"context"
	"encoding/hex"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// archiveLine is a line of ls --json.
type archiveLine struct {
	Database   string  `json:"database"`
	Schema     string  `json:"schema"`
	Table      string  `json:"table"`
	BatchID    int64   `json:"batch_id"`
	RunID      int64   `json:"run_id"`
	Attempt    int     `json:"attempt"`
	State      string  `json:"state"`
	ObjectKey  string  `json:"object_key"`
	VersionID  *string `json:"version_id"`
	Rows       int64   `json:"rows"`
	Bytes      int64   `json:"bytes"`
	SHA256     string  `json:"sha256"`
	From       *string `json:"from"`
	To         string  `json:"to"`
	ArchivedAt string  `json:"archived_at"`
}

func (c *cli) lsCommand() *cobra.Command {
	var s selection
	var limit int
	var orphans bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List archived batches, or objects that belong to none",
		Long: `List the archived batches of the ledger, those planned last first, with the range of
timestamps that each covers and the key of its object. For people the list ends after
100 lines unless --limit says otherwise.

With --orphans it goes through the bucket instead and lists the objects and manifests
below s3.prefix that no archived batch refers to:
  in progress  of a batch that is not finished
  discarded    the rows changed before they were deleted; the batch read them again
  superseded   as discarded, but some of the rows were removed by another hand
  unknown      the ledger has no record of it
The rows of the last three are looked up in their table. Where none is left there, the
object may hold the only copy of its rows. This command removes nothing.

Examples:
  archiver ls
  archiver ls --table public.audit_logs --json
  archiver ls --orphans`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			most, err := c.limit(limit, cmd.Flags().Changed("limit") || orphans)
			if err != nil {
				return err
			}
			a, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer a.close()
			if orphans {
				return c.lsOrphans(cmd.Context(), a, s, most)
			}
			return c.ls(cmd.Context(), a, s, most)
		},
	}
	cmd.Flags().BoolVar(&orphans, "orphans", false, "objects in the bucket that no archived batch refers to")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most `N` lines; 0 for no limit (default 100, with --json or --orphans no limit)")
	s.addTo(cmd)
	return c.jsonFlag(cmd)
}

func (c *cli) ls(ctx context.Context, a *app, s selection, limit int) error {
	filter, err := a.filter(ctx, s)
	if err != nil {
		return err
	}
	list := c.lines("TABLE\tBATCH\tROWS\tSIZE\tFROM\tTO\tARCHIVED\tOBJECT")
	more, read := false, limit
	if limit > 0 {
		read++ // to know whether there is more
	}
	err = a.ledger.EachArchive(ctx, filter, read, func(b ledger.Archive) error {
		if more = limit > 0 && list.count == limit; more {
			return nil
		}
		from := "oldest"
		if b.From != nil {
			from = *b.From
		}
		return list.add(archiveLine{
			Database: b.Database, Schema: b.Schema, Table: b.Table, BatchID: b.BatchID, RunID: b.RunID, Attempt: b.Attempt, State: string(ledger.Archived),
			ObjectKey: b.Key, VersionID: nullable(b.VersionID), Rows: b.Rows, Bytes: b.StoredBytes, SHA256: hex.EncodeToString(b.SHA256),
			From: b.From, To: b.To, ArchivedAt: stamp(b.ArchivedAt),
		}, config.Table{Database: b.Database, Schema: b.Schema, Name: b.Table}.String(), strconv.FormatInt(b.BatchID, 10), humanize.Comma(b.Rows),
			bytesText(b.StoredBytes), from, b.To, stamp(b.ArchivedAt), b.Key)
	})
	if err != nil {
		return err
	}
	if err := list.finish("nothing is archived yet"); err != nil {
		return err
	}
	if more && !c.json {
		c.printf("... and more: add --limit 0\n")
	}
	return nil
}
