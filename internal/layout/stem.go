package layout

import (
	"regexp"
	"strconv"
	"strings"
)

// lastPart is the end of a key that Object makes: time, batch id, hash, extension.
var lastPart = regexp.MustCompile(`^.+_([0-9]+)_[0-9a-f]{16}(\.jsonl(?:\.gz|\.zst)?|` + regexp.QuoteMeta(ManifestExtension) + `)$`)

// Parse takes a key apart as far as it can be: stem is what the keys of an object
// and of its manifest have in common. ok is false for a key that Object does not make.
func Parse(key string) (stem string, batchID int64, ok bool) {
	m := lastPart.FindStringSubmatch(key[strings.LastIndexByte(key, '/')+1:])
	if m == nil {
		return "", 0, false
	}
	id, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return "", 0, false
	}
	return strings.TrimSuffix(key, m[2]), id, true
}
