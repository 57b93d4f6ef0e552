// Package ledger records what was planned, how far each batch got, and which
// object holds it. It is the one writer of those tables; River only moves work.
//
// # States
//
//	planned ──> verified ──> deleting ──> archived
//	   │ ^          │            │
//	   │ └──────────┴────────────┘   rows changed since the read: extract again
//	   ├──> empty                    no row left in the range
//	   └──> cancelled                also from verified; never from deleting
//
// archived, empty and cancelled are final. "failed" is a flag beside the state:
// it says that somebody should look, and a retry goes on where the batch stands.
//
// # Fencing
//
// Claim gives each try at a batch its own attempt number. Every later change
// carries it and is a compare-and-set on (id, attempt, state): a try that was
// overtaken by another gets ErrStale and must stop without touching a row.
package ledger
