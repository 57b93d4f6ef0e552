package fault

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// ending is how a batch must end under a fault.
type ending int

const (
	recovers ending = iota // archived, and no attempt spent
	retries                // archived, after attempts that failed
	stops                  // failed with nothing deleted; archived once the fault is gone and it is retried
	ruined                 // failed with nothing deleted, for as long as a human leaves the object there
	pends                  // failed when the rows were gone and their object whole; archived as stops
)

// storageFault is a fault of the requests of one table's batches.
type storageFault struct {
	name string
	rule rule
	end  ending
	says string // in the ledger, when it fails
}

// always is more than any number of attempts.
const always = -1

func storageFaults(s func() *site) []storageFault {
	onDisk := func(do func(path string) error) mishap {
		return before(func(r *http.Request) error {
			return do(s().bucket.Path(strings.TrimPrefix(r.URL.Path, "/"+s().bucket.Name+"/")))
		})
	}
	return []storageFault{
		{name: "put_500", rule: rule{put, 1, answer(500, "InternalError")}},
		{name: "put_503_long", rule: rule{put, 7, answer(503, "SlowDown")}},
		{name: "put_429_long", rule: rule{put, 7, answer(429, "TooManyRequests")}},
		{name: "put_reset_long", rule: rule{put, 7, unsent}},
		{name: "put_lost", rule: rule{put, 1, lostAnswer}},
		{name: "put_lost_long", rule: rule{put, 7, lostAnswer}},
		{name: "put_flipped", rule: rule{put, 1, flippedRequest}},
		{name: "put_flipped_long", rule: rule{put, 7, flippedRequest}},
		{name: "put_200_error", rule: rule{put, 1, answer(200, "InternalError")}},
		{name: "put_swallowed", rule: rule{put, 1, swallowed}, end: retries},
		{name: "put_revoked", rule: rule{put, always, answer(403, "InvalidAccessKeyId")}, end: stops, says: "s3.access_key_id"},
		{name: "put_no_bucket", rule: rule{put, always, answer(404, "NoSuchBucket")}, end: stops, says: "there is no bucket"},

		{name: "get_500_long", rule: rule{get, 7, answer(500, "InternalError")}},
		{name: "get_reset_long", rule: rule{get, 7, unsent}},
		{name: "get_broken_long", rule: rule{get, 7, broken}},
		{name: "get_truncated", rule: rule{get, 1, changed(false, half)}},
		{name: "get_truncated_bare", rule: rule{get, 1, changed(true, half)}, end: retries},
		{name: "get_flipped", rule: rule{get, 1, changed(false, flip)}, end: retries},
		{name: "get_flipped_bare", rule: rule{get, 1, changed(true, flip)}, end: retries},
		{name: "get_flipped_always", rule: rule{get, always, changed(true, flip)}, end: stops, says: "verify "},
		{name: "get_stale_404", rule: rule{get, 2, answer(404, "NoSuchKey")}, end: retries},
		{name: "get_stale_older", rule: rule{get, 2, changed(true, func([]byte) []byte { return []byte("an older generation") })}, end: retries},
		{name: "get_200_error", rule: rule{get, 1, answer(200, "InternalError")}, end: retries},
		{name: "get_revoked", rule: rule{get, always, answer(403, "AccessDenied")}, end: stops, says: "s3:GetObject"},
		{name: "get_no_bucket", rule: rule{get, always, answer(404, "NoSuchBucket")}, end: stops, says: "there is no bucket"},

		{name: "disk_edited", rule: rule{get, 1, onDisk(func(path string) error { return edit(path, flip) })}, end: ruined, says: "look at "},
		{name: "disk_truncated", rule: rule{get, 1, onDisk(func(path string) error { return os.Truncate(path, 100) })}, end: ruined, says: "look at "},
		{name: "disk_emptied", rule: rule{get, 1, onDisk(func(path string) error { return os.Truncate(path, 0) })}, end: ruined, says: "look at "},
		{name: "disk_removed", rule: rule{get, 1, onDisk(os.Remove)}, end: retries},

		{name: "manifest_500_long", rule: rule{manifest, 7, answer(500, "InternalError")}},
		{name: "manifest_lost_long", rule: rule{manifest, 7, lostAnswer}},
		{name: "manifest_flipped", rule: rule{manifest, 1, flippedRequest}},
		{name: "manifest_200_error", rule: rule{manifest, 1, answer(200, "InternalError")}},
		{name: "manifest_swallowed", rule: rule{manifest, 1, swallowed}, end: retries},
		{name: "manifest_back_flipped", rule: rule{manifestBack, 1, changed(true, flip)}, end: retries},
		{name: "manifest_back_404", rule: rule{manifestBack, 2, answer(404, "NoSuchKey")}, end: retries},
		{name: "manifest_revoked", rule: rule{manifest, always, answer(403, "AccessDenied")}, end: pends, says: "its rows are deleted and in "},
		{name: "manifest_no_bucket", rule: rule{manifest, always, answer(404, "NoSuchBucket")}, end: pends, says: "its rows are deleted and in "},
	}
}

// edit changes a file in place, past the server.
func edit(path string, change func([]byte) []byte) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(change(content), 0)
	return err
}

// TestStorageFaults has every kind of request to storage fail in every way, each on a
// table of its own and all at the same time.
func TestStorageFaults(t *testing.T) {
	t.Parallel()
	var s *site
	s = runFaults(t, storageFaults(func() *site { return s }), func(made *site) { s = made }, 10, "")
}

// TestMultipartFaults does the same to the requests of an upload in parts.
func TestMultipartFaults(t *testing.T) {
	t.Parallel()
	runFaults(t, []storageFault{
		{name: "create_500_long", rule: rule{create, 7, answer(500, "InternalError")}},
		{name: "create_lost", rule: rule{create, 1, lostAnswer}},
		{name: "part_503_long", rule: rule{part, 7, answer(503, "SlowDown")}},
		{name: "part_lost", rule: rule{part, 1, lostAnswer}},
		{name: "part_flipped", rule: rule{part, 1, flippedRequest}},
		{name: "part_no_upload", rule: rule{part, 1, answer(404, "NoSuchUpload")}},
		{name: "complete_500_long", rule: rule{complete, 7, answer(500, "InternalError")}},
		{name: "complete_lost", rule: rule{complete, 1, lostAnswer}},
		{name: "complete_lost_long", rule: rule{complete, 7, lostAnswer}},
		{name: "complete_200_error", rule: rule{complete, 1, answer(200, "InternalError")}},
		{name: "complete_409", rule: rule{complete, 1, answer(409, "ConditionalRequestConflict")}},
		{name: "complete_revoked", rule: rule{complete, always, answer(403, "AccessDenied")}, end: stops, says: "s3:PutObject"},
		{name: "multi_get_broken", rule: rule{get, 3, broken}},
		{name: "multi_get_flipped", rule: rule{get, 1, changed(true, flip)}, end: retries},
	}, func(*site) {}, 3, ", compression: none")
}

// wide has a payload of 2 MiB for each row, which no two rows of a table share.
const wide = `CREATE TABLE wide AS SELECT id, jsonb_agg(md5(id::text || i)) AS payload FROM generate_series(1, %d) id, generate_series(1, 58000) i GROUP BY id`

func runFaults(t *testing.T, faults []storageFault, made func(*site), rows int, options string) *site {
	t.Helper()
	var tables []string
	i := &injector{rules: map[string]*rule{}, hits: map[string]int{}}
	for _, f := range faults {
		tables = append(tables, f.name)
		i.rules[f.name] = &rule{f.rule.op, f.rule.times, f.rule.do}
	}
	s := newSite(t, options, tables...)
	made(s)
	s.cfg.S3.MultipartThresholdBytes, s.cfg.S3.MultipartPartBytes = 5<<20, 5<<20
	if options != "" {
		s.source.Exec(t, fmt.Sprintf(wide, rows))
	}
	for _, name := range tables {
		s.fill(name, rows, 1)
		if options != "" {
			for _, each := range []string{name, "truth_" + name} {
				s.source.Exec(t, fmt.Sprintf(`ALTER TABLE %[1]s ALTER payload SET STORAGE EXTERNAL; UPDATE %[1]s t SET payload = w.payload FROM wide w WHERE w.id = t.id`, each))
			}
		}
	}
	s.work(ways{store: func(c *objstore.Config) {
		c.Breaker = objstore.BreakerPolicy{} // the faults of one table are not to keep the others waiting
		c.Transport = func(next http.RoundTripper) http.RoundTripper { i.next = next; return i }
	}})
	for _, name := range tables {
		require.EqualValues(t, (rows+9)/10, s.plan(name), name)
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			mine := *s
			mine.t = t
			mine.under(f, i)
		})
	}
	return s
}

// under waits for the end of a table's batches and looks at it.
func (s *site) under(f storageFault, i *injector) {
	t := s.t
	s.settle(f.name)
	switch f.end {
	case recovers, retries:
		require.Positive(t, i.heal(f.name), "the fault did not happen")
		s.archived(f.name)
		require.Equal(t, f.end == retries, s.attempts(f.name) > 0, "attempts spent: %d", s.attempts(f.name))
		return
	case stops, ruined:
		s.untouched(f.name)
	case pends:
		s.exactlyOnce(f.name)
		require.Positive(t, s.count(f.name, `b.failed AND b.state = 'deleting'`))
		require.Zero(t, s.source.Int(t, fmt.Sprintf(`SELECT count(*) FROM %s`, f.name)))
	}
	require.Contains(t, s.trouble(f.name), f.says)
	require.Positive(t, i.heal(f.name), "the fault did not happen")
	s.retry(f.name)
	s.settle(f.name)
	if f.end != ruined {
		s.archived(f.name)
		return
	}
	s.exactlyOnce(f.name)
	require.Positive(t, s.count(f.name, `b.failed`), "what lies damaged in storage was taken for whole")
	for _, key := range s.bucket.Keys(t) { // what the hint says
		if strings.Contains(key, "/"+f.name+"/") && !s.committed(key) {
			require.NoError(t, os.Remove(s.bucket.Path(key)))
		}
	}
	s.retry(f.name)
	s.settle(f.name)
	s.archived(f.name)
}

// committed says whether an object, or the one of a manifest, belongs to an archived
// batch.
func (s *site) committed(key string) bool {
	s.t.Helper()
	return s.control.Int(s.t, s.ledger.SQL(`SELECT count(*) FROM {s}.object WHERE state = 'committed' AND $1 IN (key, manifest_key)`), key) > 0
}
