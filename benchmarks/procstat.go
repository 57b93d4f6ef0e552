package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of the times in /proc, which is 100 on every Linux that Go
// runs on.
const ticksPerSecond = 100

// cpuOf returns the processor seconds, user and system, that a process and all of its
// children have used so far: those that are gone too, if the process has waited for them,
// as the postmaster does. It is 0 where there is no /proc.
func cpuOf(pid int) float64 {
	var ticks int64
	for _, stat := range processStats() {
		fields := strings.Fields(stat.rest)
		if len(fields) < 15 || (stat.pid != pid && fields[1] != strconv.Itoa(pid)) {
			continue
		}
		times := fields[11:13] // utime, stime
		if stat.pid == pid {
			times = fields[11:15] // and of the children that it has waited for
		}
		for _, t := range times {
			n, _ := strconv.ParseInt(t, 10, 64) // the kernel's own numbers
			ticks += n
		}
	}
	return float64(ticks) / ticksPerSecond
}

// processStat is a line of /proc/PID/stat from behind the program's name.
type processStat struct {
	pid  int
	rest string
}

func processStats() []processStat {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is valid
	var out []processStat
	for _, f := range files {
		line, err := os.ReadFile(f)
		end := bytes.LastIndexByte(line, ')')
		if err != nil || end < 0 {
			continue // it has ended meanwhile
		}
		var pid int
		if _, err := fmt.Sscanf(string(line), "%d", &pid); err == nil {
			out = append(out, processStat{pid, string(line[end+1:])})
		}
	}
	return out
}
