package fault

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/testkit"
)

// bounded is the most memory that `archiver cat` may take for anything: an idle one
// takes about 30 MB.
const bounded = 200 << 20

// cat is how `archiver cat` of one key ended.
type cat struct {
	code   int
	stderr string
	bytes  int64 // of rows
	memory int64 // the most that it held, in bytes
}

func (s *site) cat(program, key string) cat {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "cat", key)
	cmd.Env = []string{"ARCHIVER_CONFIG=" + s.cfg.Path, "HOME=" + s.t.TempDir()}
	var stderr bytes.Buffer
	out := &counter{}
	cmd.Stdout, cmd.Stderr = out, &stderr
	memory := s.watched(ctx, cmd)
	require.NoError(s.t, ctx.Err(), key)
	return cat{code: cmd.ProcessState.ExitCode(), stderr: stderr.String(), bytes: out.n, memory: memory}
}

// watched runs a program to its end, which its state then has, and returns the most memory
// that it held, in bytes.
func (s *site) watched(ctx context.Context, cmd *exec.Cmd) int64 {
	s.t.Helper()
	require.NoError(s.t, cmd.Start())
	// Not what Wait reports: that is at least the memory of this process, which forked.
	watched, watching := context.WithCancel(ctx)
	memory := make(chan int64, 1)
	go func() {
		var most int64
		for watched.Err() == nil {
			most = max(most, held(cmd.Process.Pid))
			wait(watched, 2*time.Millisecond)
		}
		memory <- most
	}()
	_ = cmd.Wait()
	watching()
	return <-memory
}

// held is the most memory that a program has held since it started, in bytes.
func held(pid int) int64 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil || !strings.Contains(string(status), "\nVmHWM:") {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nVmHWM:")
	kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func (s *site) plant(key string, body []byte) {
	s.t.Helper()
	_, err := s.bucket.Client().PutObject(s.t.Context(), &s3.PutObjectInput{Bucket: aws.String(s.bucket.Name), Key: aws.String(key), Body: bytes.NewReader(body)})
	require.NoError(s.t, err)
}

// bombed is n bytes of one letter, compressed.
func bombed(t *testing.T, n int64, compressor func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	z := compressor(&out)
	_, err := io.CopyN(z, letters{}, n)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestHostileObjects has `archiver cat` read what an enemy with access to the bucket
// would put there: it is refused, or streamed, in bounded memory.
func TestHostileObjects(t *testing.T) {
	t.Parallel()
	program := testkit.Build(t, "./cmd/archiver")
	s := newSite(t, "", "audit_logs")
	const row = `{"id":1}` + "\n"
	good := bombedText(t, row)
	sum := sha256.Sum256(good)
	// with is a manifest that is right but for one of its values.
	with := func(stem, key string, value any) []byte {
		m := map[string]any{
			"format_version": 1, "object_key": "pre/" + stem + ".jsonl.gz", "compression": "gzip", "format": "jsonl", "rows": 1, "sha256": hex.EncodeToString(sum[:]),
		}
		m[key] = value
		text, err := json.Marshal(m)
		require.NoError(t, err)
		s.plant("pre/"+stem+".jsonl.gz", good)
		return text
	}
	const large = 256 << 20
	zstdOf := func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithWindowSize(1<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
		require.NoError(t, err)
		return z
	}
	cases := []struct {
		name, key string
		body      []byte
		code      int
		says      string
	}{
		{"good", "pre/a.manifest.json", with("a", "rows", 1), 0, ""},
		{"wrong hash", "pre/b.manifest.json", with("b", "sha256", strings.Repeat("0", 64)), 1, "SHA-256"},
		{"no hash", "pre/c.manifest.json", with("c", "sha256", "../../etc/passwd"), 1, "sha256 is not one"},
		{"wrong rows", "pre/d.manifest.json", with("d", "rows", int64(1)<<62), 1, "4611686018427387904"},
		{"huge number", "pre/e.manifest.json", []byte(strings.Replace(string(with("e", "rows", 77)), ":77", ":1e999999999", 1)), 1, "damaged"},
		{"negative version", "pre/f.manifest.json", with("f", "format_version", -1), 1, "format version"},
		{"outside the prefix", "pre/g.manifest.json", with("g", "object_key", "secret/payroll.jsonl.gz"), 1, "not the one beside it"},
		{"path", "pre/h.manifest.json", with("h", "object_key", "../../../../etc/passwd"), 1, "not the one beside it"},
		{"other bucket", "pre/i.manifest.json", with("i", "object_key", "s3://elsewhere/pre/good.jsonl.gz"), 1, "not the one beside it"},
		{"unknown compression", "pre/j.manifest.json", with("j", "compression", "bzip2"), 1, "not the one beside it"},
		{"terminal codes", "pre/k.manifest.json", with("k", "object_key", "pre/\x1b[2J\x1b]0;gone\a.jsonl.gz"), 1, ""},
		{"not JSON", "pre/l.manifest.json", []byte("MZ\x00\x01"), 1, "damaged"},
		{"deep", "pre/m.manifest.json", bytes.Repeat([]byte("["), 4<<20), 1, "damaged"},
		{"large manifest", "pre/n.manifest.json", bytes.Repeat([]byte(" "), 17<<20), 1, "too many for a manifest"},
		{"gzip bomb", "pre/o.jsonl.gz", bombed(t, large, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), 1, "last line has no end"},
		{"zstd bomb", "pre/p.jsonl.zst", bombed(t, large, zstdOf), 1, "last line has no end"},
		{"zstd window", "pre/q.jsonl.zst", []byte("\x28\xb5\x2f\xfd\x00\x98\x09\x00\x00x"), 1, "window"},
		{"zstd claims", "pre/r.jsonl.zst", []byte("\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x00\x00"), 1, ""},
		{"gzip without an end", "pre/s.jsonl.gz", good[:len(good)-5], 1, "EOF"},
		{"gzip with more behind it", "pre/t.jsonl.gz", append(bytes.Clone(good), good...), 1, "after the end"},
		{"empty", "pre/u.jsonl.gz", nil, 1, ""},
		{"endless line", "pre/v.jsonl", bytes.Repeat([]byte("x"), 64<<20), 1, "last line has no end"},
	}
	s.plant("secret/payroll.jsonl.gz", good)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			mine := *s
			mine.t = t
			mine.plant(c.key, c.body)
			have := mine.cat(program, c.key)
			about := fmt.Sprintf("exit %d, %d bytes of rows, %d MB of memory: %s", have.code, have.bytes, have.memory>>20, have.stderr)
			require.Equal(t, c.code, have.code, about)
			require.Contains(t, have.stderr, c.says, about)
			require.NotContains(t, have.stderr, "goroutine ", about)
			require.NotContains(t, have.stderr, "\x1b", about)
			require.Less(t, len(have.stderr), 4096, about)
			require.Less(t, have.memory, int64(bounded), about)
			t.Log(have.memory>>20, "MB")
		})
	}
}

func bombedText(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}
