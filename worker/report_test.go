package worker

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestProgressIsReadWhileItIsMade has one goroutine work and another look, for the race
// detector too.
func TestProgressIsReadWhileItIsMade(t *testing.T) {
	t.Parallel()
	var p progress
	p.at(stageBegin)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			assert.Contains(t, p.String(), " since 20")
		}
	})
	var spool bytes.Buffer
	for range 100 {
		p.at(stageRead)
		spool.Reset()
		_, err := p.counted(&spool).Write(make([]byte, 1_500_000))
		require.NoError(t, err)
	}
	wg.Wait()
	require.Contains(t, p.String(), "reading rows since 20")
	require.Contains(t, p.String(), "1.5 MB compressed so far")
	p.holds(12_345, 1_500_000)
	p.at(stageUpload)
	require.Contains(t, p.String(), ": 12,345 rows, 1.5 MB")
	require.Equal(t, stageUpload, p.where())
}

func TestJobLogHoldsWhatTheJobDoesNotShow(t *testing.T) {
	t.Parallel()
	var job bytes.Buffer
	core, stderr := observer.New(zapcore.DebugLevel)
	ctx := context.WithValue(t.Context(), jobLogKey{}, jobLogCore(&job))
	log := withJobLog(ctx, zap.New(core).With(zap.Int64("batch_id", 7)))
	log.Debug("rows read")
	log.Info("batch waits\x00", zap.String("reason", "locked \x00"))
	require.Equal(t, 2, stderr.Len(), "all of it goes where the log goes")
	require.Equal(t, 1, strings.Count(job.String(), "\n"), "from info level on")
	require.Contains(t, job.String(), `INFO  batch waits`)
	require.Contains(t, job.String(), `locked`)
	require.NotContains(t, job.String(), "batch_id")
	require.NotContains(t, job.String(), "\x00", "which River could not store")

	plain := zap.New(core)
	require.Same(t, plain, withJobLog(t.Context(), plain), "outside of an attempt")
}
