package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/encode"
	"github.com/audit-table-archiver/archiver/internal/layout"
	"github.com/audit-table-archiver/archiver/internal/objstore"
)

func (c *cli) catCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cat KEY...",
		Short: "Print the rows of objects",
		Long: `Print the rows of objects to stdout, decompressed, one JSON document a line, in the order
of the keys. KEY is a key of the bucket as archiver ls prints it, or s3://BUCKET/KEY, of an
object or of a manifest. By the manifest its object is read in the very version that was
verified, and its SHA-256 and number of rows are compared: if they differ, the command
fails at the end, and what it printed must not be trusted. It needs the bucket only,
neither the control database nor a source.

Examples:
  archiver cat prod/orders/public/audit_logs/year=2024/month=03/20240301T000000Z_1_0123456789abcdef.jsonl.gz
  archiver cat s3://audit-archive/prod/orders/public/audit_logs/year=2024/month=03/20240301T000000Z_1_0123456789abcdef.manifest.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.load()
			if err != nil {
				return err
			}
			var keys []string
			for _, arg := range args {
				key, err := a.key(arg)
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
			if err := a.openStore(cmd.Context()); err != nil {
				return err
			}
			defer a.store.Close()
			// A reader that has seen enough, such as head, is no failure.
			signal.Ignore(syscall.SIGPIPE)
			for _, key := range keys {
				if err := a.cat(cmd.Context(), key, c.out); errors.Is(err, syscall.EPIPE) {
					return nil
				} else if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// key takes s3://bucket/key apart.
func (a *app) key(arg string) (string, error) {
	key := arg
	if rest, ok := strings.CutPrefix(arg, "s3://"); ok {
		bucket, inside, _ := strings.Cut(rest, "/")
		if bucket != a.cfg.S3.Bucket {
			return "", &exitError{
				code: exitUsage, err: fmt.Errorf("%s is in bucket %s, and the configuration names bucket %s", arg, bucket, a.cfg.S3.Bucket),
				hint: "give a configuration for that bucket: --config FILE, or ARCHIVER_S3_BUCKET=" + bucket,
			}
		}
		key = inside
	}
	if _, ok := encode.CompressionOf(key); !ok && !layout.IsManifest(key) {
		return "", &exitError{
			code: exitUsage, err: fmt.Errorf("%q is not the key of an object of rows, nor of a manifest", arg),
			hint: "such keys end in .jsonl, .jsonl.gz, .jsonl.zst or .manifest.json; see: archiver ls",
		}
	}
	return key, nil
}

// expected is what a manifest says about its object.
type expected struct {
	versionID, compression string
	sha256                 []byte
	rows                   int64
}

func (a *app) cat(ctx context.Context, key string, out io.Writer) error {
	if layout.IsManifest(key) {
		m, err := a.manifest(ctx, key)
		if err != nil {
			return err
		}
		sum, err := hex.DecodeString(m.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return &exitError{code: exitFailed, err: fmt.Errorf("manifest %s: sha256 is not one: %q", key, m.SHA256)}
		}
		return a.print(ctx, m.Object, out, &expected{versionID: m.VersionID, compression: m.Compression, sha256: sum, rows: m.Rows})
	}
	return a.print(ctx, key, out, nil)
}

// maxManifestBytes bounds what is read as a manifest; one column takes some 100 B.
const maxManifestBytes = 16 << 20

func (a *app) manifest(ctx context.Context, key string) (layout.Manifest, error) {
	var m layout.Manifest
	body, object, err := a.store.Get(ctx, key, "")
	if err != nil {
		return m, readError(key, err)
	}
	defer body.Close() //nolint:errcheck // it is read to its end, or an error is returned
	if object.Size > maxManifestBytes {
		return m, &exitError{code: exitFailed, err: fmt.Errorf("manifest %s: %d bytes are too many for a manifest", key, object.Size)}
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return m, readError(key, err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, &exitError{code: exitFailed, err: fmt.Errorf("manifest %s is damaged: %w", key, err), hint: "give the key of its object, which ends in .jsonl.gz or the like"}
	}
	if m.FormatVersion != layout.FormatVersion || m.Object == "" {
		return m, &exitError{
			code: exitFailed, err: fmt.Errorf("manifest %s: format version %d, object %q; this binary reads version %d", key, m.FormatVersion, m.Object, layout.FormatVersion),
			hint: "use the archiver release that wrote it, or a later one",
		}
	}
	// What a manifest says is not to lead elsewhere: whoever can write one into the
	// bucket would choose what is read with the operator's rights.
	if stem := strings.TrimSuffix(key, layout.ManifestExtension); m.Object != stem+encode.Extension(m.Format, m.Compression) {
		return m, &exitError{
			code: exitFailed, err: fmt.Errorf("manifest %s names the object %q, which is not the one beside it", key, m.Object),
			hint: "if both were moved, give the key of the object itself",
		}
	}
	return m, nil
}

// print streams the rows of an object to out in bounded memory, whatever it claims
// to hold, and then compares it with what is expected, if that is known.
func (a *app) print(ctx context.Context, key string, out io.Writer, want *expected) error {
	compression, _ := encode.CompressionOf(key)
	version := ""
	if want != nil {
		compression, version = want.compression, want.versionID
	}
	body, _, err := a.store.Get(ctx, key, version)
	if objstore.IsNotFound(err) && version != "" {
		key += " in version " + version
	}
	if err != nil {
		return readError(key, err)
	}
	defer body.Close() //nolint:errcheck // it is read to its end, or an error is returned
	stored := &watched{Reader: body}
	hash := sha256.New()
	rows, err := encode.NewReader(io.TeeReader(stored, hash), compression)
	if err != nil {
		return decodeError(key, 0, stored, err)
	}
	defer rows.Close() //nolint:errcheck // it only frees memory
	sink := &rowCounter{out: bufio.NewWriterSize(out, 1<<16)}
	_, err = io.Copy(sink, rows)
	if flushErr := sink.out.Flush(); flushErr != nil {
		return outputError(flushErr)
	}
	switch {
	case err != nil:
		return decodeError(key, sink.rows, stored, err)
	case sink.open:
		return damaged(key, sink.rows, errors.New("its last line has no end"))
	case want != nil && string(hash.Sum(nil)) != string(want.sha256):
		return damaged(key, sink.rows, fmt.Errorf("its SHA-256 is %x, and its manifest says %x", hash.Sum(nil), want.sha256))
	case want != nil && sink.rows != want.rows:
		return damaged(key, sink.rows, fmt.Errorf("it holds %d rows, and its manifest says %d", sink.rows, want.rows))
	}
	return nil
}

// rowCounter counts the lines that pass through it.
type rowCounter struct {
	out  *bufio.Writer // not embedded: io.Copy would find its ReadFrom and pass Write by
	rows int64
	open bool // the last line is not ended
}

func (w *rowCounter) Write(p []byte) (int, error) {
	w.rows += int64(bytes.Count(p, []byte{'\n'}))
	if len(p) > 0 {
		w.open = p[len(p)-1] != '\n'
	}
	return w.out.Write(p)
}

// watched remembers why reading failed, to tell the store's failure from bytes
// that cannot be decoded.
type watched struct {
	io.Reader
	err error
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// readError gives a missing or damaged object the exit code of a failure: the
// store was reached.
func readError(key string, err error) error {
	switch {
	case objstore.IsNotFound(err):
		return &exitError{
			code: exitFailed, err: fmt.Errorf("there is no object %s in the bucket", key),
			hint: "keys are printed by: archiver ls; quote them for the shell",
		}
	case errors.Is(err, objstore.ErrCorrupt):
		return damaged(key, 0, err)
	}
	return err
}

func decodeError(key string, rows int64, stored *watched, err error) error {
	if stored.err != nil && !errors.Is(stored.err, objstore.ErrCorrupt) {
		return fmt.Errorf("%w; %d rows were printed before that", stored.err, rows)
	}
	return damaged(key, rows, err)
}

func damaged(key string, rows int64, err error) error {
	return &exitError{
		code: exitFailed, err: fmt.Errorf("object %s is damaged: %w; do not trust the %d rows that were printed of it", key, err, rows),
		hint: "look for another version of it in the bucket, or a copy; nothing was changed",
	}
}
