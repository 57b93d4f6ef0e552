package worker

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/riverqueue/river/riverlog"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// What the queue keeps of the log of one attempt, and of all attempts of a job: its row
// is rewritten at each change, and a batch may wait a thousand times.
const (
	maxAttemptLog = 32 << 10
	maxJobLog     = 128 << 10
)

type jobLogKey struct{}

// jobLog gives each attempt a log of its own, which River stores with the job when the
// attempt ends and River UI shows.
func jobLog() rivertype.Middleware {
	return riverlog.NewMiddlewareCustomContext(func(ctx context.Context, w io.Writer) context.Context {
		return context.WithValue(ctx, jobLogKey{}, jobLogCore(w))
	}, &riverlog.MiddlewareConfig{MaxSizeBytes: maxAttemptLog, MaxTotalBytes: maxJobLog})
}

func jobLogCore(w io.Writer) zapcore.Core {
	e := zap.NewProductionEncoderConfig()
	e.EncodeTime = func(t time.Time, out zapcore.PrimitiveArrayEncoder) {
		zapcore.TimeEncoderOfLayout("2006-01-02 15:04:05.000Z07:00")(t.UTC(), out)
	}
	e.EncodeLevel = zapcore.CapitalLevelEncoder
	e.EncodeDuration = zapcore.StringDurationEncoder
	e.ConsoleSeparator = "  "
	return zapcore.NewCore(zapcore.NewConsoleEncoder(e), zapcore.Lock(zapcore.AddSync(storable{w})), zapcore.InfoLevel)
}

// storable takes out the one character that jsonb cannot hold: with it in the log, River
// could not record how the attempt ended.
type storable struct{ w io.Writer }

func (s storable) Write(p []byte) (int, error) {
	if _, err := s.w.Write(bytes.ReplaceAll(p, []byte{0}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// withJobLog has a logger write to the log of the attempt that ctx belongs to as well,
// from info level on. Fields that log has already are left out there: the job shows them.
func withJobLog(ctx context.Context, log *zap.Logger) *zap.Logger {
	core, ok := ctx.Value(jobLogKey{}).(zapcore.Core)
	if !ok {
		return log
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return zapcore.NewTee(c, core) }))
}
