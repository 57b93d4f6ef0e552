package encode

import "time"

// sampleEvery is the share of Write calls that are timed. Reading the clock costs about
// as much as encoding a small column, and there is a call for each row.
const sampleEvery = 16

// stopwatch estimates the time spent in many short calls: it times some of them and
// scales by the bytes that they were given.
type stopwatch struct {
	calls               int
	bytes, sampledBytes int64
	sampled, exact      time.Duration
	start               time.Time
	running             bool
}

func (s *stopwatch) begin(n int) {
	s.bytes += int64(n)
	s.running = s.calls%sampleEvery == 0
	s.calls++
	if s.running {
		s.sampledBytes += int64(n)
		s.start = time.Now()
	}
}

func (s *stopwatch) end() {
	if s.running {
		s.sampled += time.Since(s.start)
		s.running = false
	}
}

// pause and resume leave out what happens between them.
func (s *stopwatch) pause() {
	if s.running {
		s.sampled += time.Since(s.start)
	}
}

func (s *stopwatch) resume() {
	if s.running {
		s.start = time.Now()
	}
}

// total is the estimate, and what was timed exactly.
func (s *stopwatch) total() time.Duration {
	if s.sampledBytes == 0 {
		return s.exact
	}
	return s.exact + time.Duration(float64(s.sampled)*float64(s.bytes)/float64(s.sampledBytes))
}
