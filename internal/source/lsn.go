package source

import (
	"fmt"
	"strconv"
	"strings"
)

// lsn is a position in the WAL, in bytes from its beginning.
type lsn uint64

// parseLSN reads the server's text form, such as 16/B374D848; empty is the beginning.
func parseLSN(text string) (lsn, error) {
	if text == "" {
		return 0, nil
	}
	high, low, _ := strings.Cut(text, "/")
	h, errHigh := strconv.ParseUint(high, 16, 32)
	l, errLow := strconv.ParseUint(low, 16, 32)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("%q is no position in the WAL", text)
	}
	return lsn(h<<32 | l), nil
}
