package cli

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"
)

// orphanLine is a line of ls --orphans --json.
type orphanLine struct {
	Key, State    string
	Bytes         int64
	LastModified  time.Time `json:"last_modified"`
	Rows, Problem *string
	CommittedKey  *string `json:"committed_key"`
}

func (s *site) orphans(t *testing.T) []orphanLine {
	t.Helper()
	return decodeLines[orphanLine](t, s.run(t, "ls", "--orphans", "--json"))
}

func (s *site) put(t *testing.T, key string, body []byte) {
	t.Helper()
	_, err := s.bucket.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(s.bucket.Name), Key: aws.String(key), Body: bytes.NewReader(body)})
	require.NoError(t, err)
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestOrphansAreLookedUp(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.run(t, "run").expect(t, done)
	s.run(t, "ls", "--orphans").expect(t, done, "every object belongs to an archived batch")

	folder := "pre/main/public/audit_logs/year=2001/month=01/20010101T000000Z_"
	s.put(t, folder+"901_00000000000000aa.jsonl.gz", zipped(t, `{"id":1}`+"\n"))
	s.put(t, folder+"902_00000000000000aa.jsonl.gz", zipped(t, `{"id":550}`+"\n"))
	s.put(t, folder+"903_00000000000000aa.jsonl.gz", zipped(t, `{"id":550}`+"\n")[:20])
	s.put(t, folder+"904_00000000000000aa.jsonl", []byte(`{"id":1}`))
	s.put(t, folder+"905_00000000000000aa.manifest.json", []byte(`{}`))
	s.put(t, "pre/main/notes.txt", []byte("hello"))
	s.put(t, "pre/.archiver/probe-1", []byte("hello"))
	s.put(t, "elsewhere/x", []byte("hello"))
	r := s.run(t, "ls", "--orphans", "--json")
	r.expect(t, partly, "rows of 2 objects could not be looked up", "the only copy of its rows")
	found := map[string]orphanLine{}
	for _, o := range decodeLines[orphanLine](t, r) {
		require.Equal(t, "unknown", o.State)
		found[strings.TrimPrefix(o.Key, folder)] = o
	}
	require.Len(t, found, 6)
	require.Equal(t, "ABSENT from table", *found["901_00000000000000aa.jsonl.gz"].Rows)
	require.Equal(t, "in table", *found["902_00000000000000aa.jsonl.gz"].Rows)
	require.Contains(t, *found["903_00000000000000aa.jsonl.gz"].Problem, "cannot be decoded")
	require.Contains(t, *found["904_00000000000000aa.jsonl"].Problem, "no end")
	require.Nil(t, found["905_00000000000000aa.manifest.json"].Rows)
	require.Nil(t, found["pre/main/notes.txt"].Rows)
	s.run(t, "ls", "--orphans", "--table", "audit_logs", "--limit", "1").expect(t, done, "KEEP IT: MAY BE THE ONLY COPY")

	s.sourceURL = strings.Replace(s.sourceURL, s.db.Name, "nowhere", 1)
	s.configure(t)
	s.run(t, "ls", "--orphans").expect(t, partly, "not looked up", "nowhere")
}

func TestCatPrintsWhatWasArchived(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.db.Exec(t, `CREATE TABLE copy AS TABLE audit_logs`)
	s.run(t, "run").expect(t, done)
	r := s.run(t, "ls", "--json")
	lines := decodeLines[struct {
		ObjectKey string `json:"object_key"`
		Rows      int
		SHA256    string
		Bytes     int64
		To        string
	}](t, r)
	first, _, _ := strings.Cut(r.out, "\n")
	require.ElementsMatch(t, []string{"database", "schema", "table", "batch_id", "run_id", "attempt", "state", "object_key", "version_id", "rows", "bytes", "sha256", "from", "to", "archived_at"}, keysOf(t, first))
	var keys, manifests []string
	for _, l := range lines {
		require.Len(t, l.SHA256, 64)
		require.Equal(t, l.Rows, strings.Count(s.run(t, "cat", l.ObjectKey).out, "\n"))
		keys = append(keys, "s3://"+s.bucket.Name+"/"+l.ObjectKey)
		manifests = append(manifests, strings.TrimSuffix(l.ObjectKey, ".jsonl.gz")+".manifest.json")
	}
	all := s.run(t, append([]string{"cat"}, keys...)...)
	all.expect(t, done)
	require.Equal(t, 500, strings.Count(all.out, "\n"))
	require.Equal(t, all.out, s.run(t, append([]string{"cat"}, manifests...)...).out)
	s.db.Exec(t, `CREATE TABLE restored (LIKE audit_logs)`)
	for line := range strings.Lines(all.out) {
		s.db.Exec(t, `INSERT INTO restored SELECT * FROM json_populate_record(NULL::audit_logs, $1::json)`, line)
	}
	require.Zero(t, s.db.Int(t, `SELECT count(*) FROM (SELECT * FROM copy EXCEPT ALL (SELECT * FROM restored UNION ALL SELECT * FROM audit_logs)) d`))
	s.run(t, "ls", "--limit", "1").expect(t, done, "... and more", lines[0].ObjectKey)

	// Another content under the same name: whole in itself, but not what was archived.
	require.NoError(t, os.WriteFile(s.bucket.Path(lines[0].ObjectKey), zipped(t, "{}\n"), 0o600))
	s.run(t, "cat", manifests[0]).expect(t, failed, "is damaged", "do not trust")
	require.NoError(t, os.Truncate(s.bucket.Path(lines[1].ObjectKey), 30))
	require.NotEqual(t, done, s.run(t, "cat", lines[1].ObjectKey).code)
	s.put(t, "pre/cut.jsonl.gz", zipped(t, "{}\n")[:15])
	s.run(t, "cat", "pre/cut.jsonl.gz").expect(t, failed, "is damaged")
	s.put(t, "pre/x.manifest.json", []byte(`{"format_version": 9}`))
	s.run(t, "cat", "pre/x.manifest.json").expect(t, failed, "format version 9")

	s.secretKey = "wrong-secret-key"
	s.configure(t)
	s.run(t, "cat", lines[2].ObjectKey).expect(t, unreachable, "s3.secret_access_key")
	s.endpoint = "http://127.0.0.1:1"
	s.configure(t)
	s.run(t, "cat", lines[2].ObjectKey).expect(t, unreachable, "127.0.0.1:1")
}

// TestCatIntoAClosedPipe reads a little of a large object and hangs up, as head does.
func TestCatIntoAClosedPipe(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.put(t, "pre/large.jsonl.gz", zipped(t, strings.Repeat(`{"a":1}`+"\n", 1<<20)))
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), s.program, "--config", s.file, "cat", "pre/large.jsonl.gz")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = writer, &stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, writer.Close())
	_, err = io.ReadFull(reader, make([]byte, 8))
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	require.NoError(t, cmd.Wait(), stderr.String())
	require.Empty(t, stderr.String())
}
