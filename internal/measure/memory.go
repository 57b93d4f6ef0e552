package measure

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// peakMemoryMB is the most memory that this process has had so far, in MB of 1024 x 1024
// bytes, as the system counts it; 0 where it does not tell.
func peakMemoryMB() float64 {
	// Linux has getrusage begin with the peak of the process that started this one, which
	// may be the larger of the two. This is our own.
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		if kb, ok := peakOf(string(status)); ok {
			return kb / 1024
		}
	}
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" { // bytes there, KB elsewhere
		return float64(u.Maxrss) / 1024 / 1024
	}
	return float64(u.Maxrss) / 1024
}

// peakOf finds the peak, in KB, in the text of /proc/PID/status.
func peakOf(status string) (kb float64, ok bool) {
	for line := range strings.Lines(status) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kb, err == nil
		}
	}
	return 0, false
}
