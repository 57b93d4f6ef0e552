package encode

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/minio/crc64nvme"
)

const (
	// blockBytes is how much JSONL goes to the compressor at a time, and blocks how many
	// such buffers there are: one being filled, one being compressed, two to even out
	// the difference between the stages. Memory per Writer is about their product: little
	// enough to stay in a core's cache.
	blockBytes = 64 << 10
	blocks     = 4

	// keepBytes is the largest buffer that is used again. One huge row must not leave
	// every buffer huge for the rest of the batch.
	keepBytes = 1 << 20

	spoolBytes = 64 << 10
)

// pipeline compresses, hashes and spools blocks in a goroutine of its own, so that this
// overlaps with encoding and with the server's work.
type pipeline struct {
	full, free chan []byte
	done       chan struct{}
	failed     atomic.Bool // err is set; the rest is drained, not compressed
	aborted    atomic.Bool

	// For the goroutine alone until done is closed.
	err        error
	compressor io.WriteCloser
	buffered   *bufio.Writer
	stored     storedWriter
	busy       time.Duration
}

func newPipeline(spool io.Writer, compression string, level int) (*pipeline, error) {
	p := &pipeline{
		full:   make(chan []byte, blocks),
		free:   make(chan []byte, blocks),
		done:   make(chan struct{}),
		stored: storedWriter{spool: spool, sha: sha256.New(), crc: crc64nvme.New()},
	}
	// Compressors write in small pieces; hashes and the spool want large ones.
	p.buffered = bufio.NewWriterSize(&p.stored, spoolBytes)
	var err error
	if p.compressor, err = newCompressor(p.buffered, compression, level); err != nil {
		return nil, err
	}
	for range blocks {
		p.free <- nil // allocated at first use, so that a small batch stays small
	}
	go p.run()
	return p, nil
}

// block returns an empty buffer, waiting for one if all are under way.
func (p *pipeline) block() []byte {
	b := <-p.free
	if cap(b) == 0 || cap(b) > keepBytes {
		b = make([]byte, 0, blockBytes+blockBytes/8)
	}
	return b[:0]
}

// send hands a block over; its owner is the pipeline from then on.
func (p *pipeline) send(b []byte) { p.full <- b }

// close ends the goroutine and returns its error. With abort nothing more is written.
func (p *pipeline) close(abort bool) error {
	p.aborted.Store(abort)
	close(p.full)
	<-p.done
	return p.err
}

func (p *pipeline) run() {
	defer close(p.done)
	for b := range p.full {
		if p.err == nil && !p.aborted.Load() {
			p.step(func() error { _, err := p.compressor.Write(b); return err })
		}
		p.free <- b // there is always room: no more buffers exist than it holds
	}
	if p.err == nil && !p.aborted.Load() {
		p.step(p.compressor.Close)
		p.step(p.buffered.Flush)
	}
}

func (p *pipeline) step(do func() error) {
	if p.err != nil {
		return
	}
	start := time.Now()
	if err := do(); err != nil {
		p.err = fmt.Errorf("write spool: %w", err)
		p.failed.Store(true)
	}
	p.busy += time.Since(start)
}

// storedWriter is the last stage: it counts and hashes what reaches the spool.
type storedWriter struct {
	spool io.Writer
	sha   hash.Hash
	crc   hash.Hash64
	bytes int64
}

func (s *storedWriter) Write(p []byte) (int, error) {
	n, err := s.spool.Write(p)
	if err != nil {
		return n, err
	}
	if n != len(p) {
		return n, io.ErrShortWrite
	}
	_, _ = s.sha.Write(p) // hashes never fail
	_, _ = s.crc.Write(p)
	s.bytes += int64(n)
	return n, nil
}
