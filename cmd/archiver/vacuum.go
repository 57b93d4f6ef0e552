package main

import (
	"errors"
	"time"

	"github.com/audit-table-archiver/archiver/internal/ledger"
)

// vacuumJSON is the last vacuum of a table in `status --json` and `run --json`.
type vacuumJSON struct {
	RunID   int64              `json:"run_id"`
	State   ledger.VacuumState `json:"state"` // queued | running | done | skipped | failed
	Since   string             `json:"since"`
	Note    *string            `json:"note"` // how far it is, what it waits for, why it was skipped or failed
	Hint    *string            `json:"hint"`
	Mode    *string            `json:"mode"` // this and what follows: null unless done
	Seconds *float64           `json:"seconds"`

	BytesBefore *int64 `json:"bytes_before"`
	BytesAfter  *int64 `json:"bytes_after"`
	DeadBefore  *int64 `json:"dead_rows_before"`
	DeadAfter   *int64 `json:"dead_rows_after"`
	BloatBefore *int64 `json:"bloat_bytes_before"` // of the heap, estimated; null: not known
	BloatAfter  *int64 `json:"bloat_bytes_after"`

	text string
}

func newVacuumJSON(v ledger.Vacuum) *vacuumJSON {
	j := &vacuumJSON{RunID: v.RunID, State: v.State, Since: stamp(v.ChangedAt), Note: nullable(v.Note), Hint: nullable(v.Hint), text: vacuumText(v)}
	if r := v.Result; r != nil {
		j.Mode, j.Seconds = &r.Mode, &r.Seconds
		j.BytesBefore, j.BytesAfter, j.DeadBefore, j.DeadAfter = &r.BytesBefore, &r.BytesAfter, &r.DeadBefore, &r.DeadAfter
		j.BloatBefore, j.BloatAfter = r.BloatBefore, r.BloatAfter
	}
	return j
}

// vacuumText is the vacuum in a line: "vacuum done: ANALYZE in 2.1 s, ..., 3m ago".
func vacuumText(v ledger.Vacuum) string {
	text := "vacuum " + string(v.State)
	if v.Result != nil {
		text += ": " + v.Result.String()
	}
	if v.Note != "" {
		text += ": " + flat(errors.New(v.Note))
	}
	if v.State == ledger.VacuumRunning {
		text += ", for " + span(time.Since(v.ChangedAt))
	} else {
		text += ", " + ago(v.ChangedAt)
	}
	if v.Hint != "" {
		text += " (hint: " + v.Hint + ")"
	}
	return text
}
