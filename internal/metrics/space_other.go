//go:build !linux && !darwin && !freebsd

package metrics

// space is not known here.
func space(string) (free, size float64, ok bool) { return 0, 0, false }
