package main

import (
	"slices"
	"time"
)

// times is how long calls took, in milliseconds.
type times struct {
	Calls int     `json:"calls"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

func summary(millis []float64) times {
	if len(millis) == 0 {
		return times{}
	}
	slices.Sort(millis)
	n := len(millis)
	return times{Calls: n, P50: millis[n/2], P99: millis[min(n-1, n*99/100)], Max: millis[n-1]}
}

// timed calls fn n times and returns how long each took. between runs before each, and
// is not counted.
func timed(n int, between, fn func() error) (times, error) {
	var all []float64
	for range n {
		if err := between(); err != nil {
			return times{}, err
		}
		began := time.Now()
		if err := fn(); err != nil {
			return times{}, err
		}
		all = append(all, millis(time.Since(began)))
	}
	return summary(all), nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
