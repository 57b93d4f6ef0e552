package digest

import (
	"encoding/binary"
	"fmt"
)

// Columns says which leading columns of a binary result name a row version: tableoid,
// ctid, xmin and the content hash, in this order.
type Columns struct {
	// Table is the tableoid of every row, which is then not among the columns. In a
	// partitioned table they differ: 0 asks for them, at the price of a column.
	Table uint32

	// Content says that the last one is the row's content hash, an int8.
	Content bool
}

const (
	contentName  = "content hash"
	contentWidth = 8
)

// identity are the system columns that name a row version, and their binary widths.
var identity = [...]struct {
	name  string
	width int
}{{"tableoid", 4}, {"ctid", 6}, {"xmin", 4}}

// MaxColumns is how many leading columns there are at most.
const MaxColumns = len(identity) + 1

// System are the names of the system columns to select.
func (c Columns) System() []string {
	var names []string
	for _, i := range identity[c.skipped():] {
		names = append(names, i.name)
	}
	return names
}

// Names are the names of all columns, for messages.
func (c Columns) Names() []string {
	names := c.System()
	if c.Content {
		names = append(names, contentName)
	}
	return names
}

func (c Columns) skipped() int {
	if c.Table != 0 {
		return 1
	}
	return 0
}

// Row reads the columns of a row, nil being NULL, and does not allocate. Another number
// of them, or one of another width, is an error that names it.
func (c Columns) Row(values [][]byte) (Row, error) {
	row, n := Row{TableOID: c.Table}, c.skipped()
	for at, v := range values {
		switch i := n + at; {
		case i < len(identity) && len(v) != identity[i].width:
			return Row{}, widthError(identity[i].name, v, identity[i].width)
		case i == 0:
			row.TableOID = binary.BigEndian.Uint32(v)
		case i == 1:
			row.Block, row.Offset = binary.BigEndian.Uint32(v), binary.BigEndian.Uint16(v[4:])
		case i == 2:
			row.Xmin = binary.BigEndian.Uint32(v)
		case len(v) != contentWidth:
			return Row{}, widthError(contentName, v, contentWidth)
		default:
			row.Content = int64(binary.BigEndian.Uint64(v))
		}
	}
	want := len(identity) - n
	if c.Content {
		want++
	}
	if len(values) != want {
		return Row{}, fmt.Errorf("%d columns name the row, want %d", len(values), want)
	}
	return row, nil
}

func widthError(name string, v []byte, want int) error {
	have := len(v)
	if v == nil {
		have = -1 // as the server writes NULL
	}
	return fmt.Errorf("column %q: %d bytes, want %d", name, have, want)
}
