package demo

import (
	"errors"
	"fmt"
	"time"
)

// hash is the MD5 of a row's JSON text. It guards against mistakes, not against
// somebody who means to deceive, and PostgreSQL has it built in.
type hash = [16]byte

// account says where each row is. It takes the originals first, then whatever is
// found in the table and in the objects.
type account struct {
	originals []hash // by id - 1
	inTable   []uint8
	inObjects []uint8

	tableRows, objectRows int64
	changed, unknown      int64 // rows whose text differs from the original's, or that have none
	young                 int64 // rows in objects that are younger than the cutoff
	cutoff                time.Time
	youngestArchived      time.Time
	oldestLeft            time.Time
}

// newAccount expects the rows 1 to rows. None that is younger than cutoff may be in
// an object.
func newAccount(rows int64, cutoff time.Time) account {
	return account{originals: make([]hash, rows), inTable: make([]uint8, rows), inObjects: make([]uint8, rows), cutoff: cutoff}
}

// foundInTable enters one row of the table.
func (a *account) foundInTable(id int64, h hash, at time.Time) {
	a.tableRows++
	a.found(a.inTable, id, h)
	if a.oldestLeft.IsZero() || at.Before(a.oldestLeft) {
		a.oldestLeft = at
	}
}

// foundInObject enters one line of an object.
func (a *account) foundInObject(id int64, h hash, at time.Time) {
	a.objectRows++
	a.found(a.inObjects, id, h)
	if at.After(a.cutoff) {
		a.young++
	}
	if at.After(a.youngestArchived) {
		a.youngestArchived = at
	}
}

func (a *account) found(place []uint8, id int64, h hash) {
	if id < 1 || id > int64(len(a.originals)) {
		a.unknown++
		return
	}
	if h != a.originals[id-1] {
		a.changed++
	}
	place[id-1] = min(place[id-1]+1, 2)
}

// verdict counts the rows that are not where they should be.
type verdict struct{ Both, Neither, Twice, Changed, Unknown, Young int64 }

// verdict looks at every original.
func (a *account) verdict() verdict {
	v := verdict{Changed: a.changed, Unknown: a.unknown, Young: a.young}
	for i := range a.originals {
		t, o := a.inTable[i], a.inObjects[i]
		switch {
		case t == 0 && o == 0:
			v.Neither++
		case t > 0 && o > 0:
			v.Both++
		case t > 1 || o > 1:
			v.Twice++
		}
	}
	return v
}

// ErrProof is the error of a proof that found a row out of place.
var ErrProof = errors.New("the proof has failed")

func (v verdict) err() error {
	if v == (verdict{}) {
		return nil
	}
	return fmt.Errorf("%w: rows in both places %d, in neither %d, twice %d, changed %d, unknown %d, archived too young %d",
		ErrProof, v.Both, v.Neither, v.Twice, v.Changed, v.Unknown, v.Young)
}
