// Package layout names objects in storage and describes what is in them.
//
// A key is made of what the object is (database, schema, table, time) and ends in
// a hash of its bytes: different rows can never meet at one key, and the same
// rows uploaded twice are the same object. Names are escaped injectively, so two
// tables never share a folder.
package layout

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"
)

// Object is what a key is made of.
type Object struct {
	Prefix                  string // as configured; may be empty
	Database, Schema, Table string
	Partition               string          // year=2024/month=03, or empty
	First                   json.RawMessage // timestamp of the first row
	BatchID                 int64
	SHA256                  [32]byte // of the stored bytes
	Extension               string   // .jsonl.gz
}

// Key is the object's key.
func (o Object) Key() string { return o.stem() + o.Extension }

// ManifestKey is the key of the manifest beside it.
func (o Object) ManifestKey() string { return o.stem() + ManifestExtension }

// ManifestExtension ends the key of a manifest, behind the stem that it shares with
// its object.
const ManifestExtension = ".manifest.json"

// IsManifest says whether a key names a manifest.
func IsManifest(key string) bool { return strings.HasSuffix(key, ManifestExtension) }

func (o Object) stem() string {
	return path.Join(TablePrefix(o.Prefix, o.Database, o.Schema, o.Table), o.Partition,
		fmt.Sprintf("%s_%d_%s", compactTime(o.First), o.BatchID, hex.EncodeToString(o.SHA256[:8])))
}

// TablePrefix is the folder of a table, without a slash at its end.
func TablePrefix(prefix, database, schema, table string) string {
	return path.Join(prefix, Escape(database), Escape(schema), Escape(table))
}

// Escape keeps letters, digits, '_' and '-', and writes every other byte as %XX.
// A dot is kept inside a name but not at its start, where . and .. mean a folder.
func Escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// compactTime makes 20240301T120000.5Z of "2024-03-01T12:00:00.5+00:00". It is for
// people and for sorting; batch id and hash make the key unique.
func compactTime(v json.RawMessage) string {
	s := strings.Trim(string(v), `"`)
	s = strings.NewReplacer("+00:00", "Z", ":", "", " ", "").Replace(s)
	if !strings.HasPrefix(s, "-") {
		s = strings.ReplaceAll(s, "-", "")
	}
	return Escape(s)
}

// FormatVersion is the version of the object and manifest format, docs/FORMAT.md.
const FormatVersion = 1

// Manifest says what an object holds. It is written after the rows were deleted:
// its presence means that the object is committed. It is enough to restore from
// without the ledger.
type Manifest struct {
	FormatVersion int               `json:"format_version"`
	Archiver      string            `json:"archiver_version"`
	Database      string            `json:"database"`
	Schema        string            `json:"schema"`
	Table         string            `json:"table"`
	RunID         int64             `json:"run_id"`
	BatchID       int64             `json:"batch_id"`
	Attempt       int               `json:"attempt"`
	Object        string            `json:"object_key"`
	VersionID     string            `json:"version_id,omitempty"`
	Range         Range             `json:"range"`
	Cutoff        string            `json:"cutoff"`
	Rows          int64             `json:"rows"`
	Format        string            `json:"format"`
	Compression   string            `json:"compression"`
	RawBytes      int64             `json:"raw_bytes"`
	StoredBytes   int64             `json:"stored_bytes"`
	RawSHA256     string            `json:"raw_sha256"`
	SHA256        string            `json:"sha256"`
	KeyColumns    []string          `json:"key_columns"`
	First         []json.RawMessage `json:"first_key"` // values of key_columns in the first row
	Last          []json.RawMessage `json:"last_key"`
	Columns       []Column          `json:"columns"`
	PrimaryKey    []string          `json:"primary_key"`
	Source        Source            `json:"source"`
	CreatedAt     time.Time         `json:"created_at"`
}

// Range is the key interval that the batch covered, as text.
type Range struct {
	FromTS *string  `json:"from_timestamp,omitempty"` // inclusive
	After  []string `json:"after_key,omitempty"`      // exclusive
	To     []string `json:"to_key"`                   // inclusive
}

// Column describes one column as it was when the rows were read.
type Column struct {
	Name      string `json:"name"`
	Type      string `json:"type"` // as format_type prints it, schema-qualified
	Nullable  bool   `json:"nullable"`
	Identity  string `json:"identity,omitempty"`  // a = always, d = by default
	Generated string `json:"generated,omitempty"` // s = stored, v = virtual
}

// Source says which server the rows came from and in which state.
type Source struct {
	SystemIdentifier string `json:"system_identifier"`
	Timeline         string `json:"timeline"`
	ServerVersion    string `json:"server_version"`
	Snapshot         string `json:"snapshot"`
	RowDigest        string `json:"row_digest"` // of (tableoid, ctid, xmin); see package digest
	ReadFrom         string `json:"read_from"`  // primary or replica; then the digest covers what the rows hold, too
}

// Bytes is the manifest as it is stored: the same manifest, the same bytes.
func (m Manifest) Bytes() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the manifest: %w", err)
	}
	return append(b, '\n'), nil
}
