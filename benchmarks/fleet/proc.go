package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of /proc on every Linux that Go runs on.
const ticksPerSecond = 100

// procStat is what /proc says of a process, in ticks.
type procStat struct {
	parent         int
	own, ofTheDead int64 // its own time, and that of children that have ended
}

func readStat(pid int) (procStat, bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, false
	}
	// The second field is a name in parentheses, which may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return procStat{}, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
	return procStat{parent: int(number(1)), own: number(11) + number(12), ofTheDead: number(13) + number(14)}, true
}

// cpuOfFamily is the time in seconds that a process and all children it ever had took.
func cpuOfFamily(pid int) float64 {
	head, ok := readStat(pid)
	if !ok {
		return 0
	}
	ticks := head.own + head.ofTheDead
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, ok := readStat(child); ok && s.parent == pid {
			ticks += s.own
		}
	}
	return float64(ticks) / ticksPerSecond
}

// cpuOf is the time in seconds that some processes took themselves.
func cpuOf(pids []int) float64 {
	var ticks int64
	for _, pid := range pids {
		if s, ok := readStat(pid); ok {
			ticks += s.own
		}
	}
	return float64(ticks) / ticksPerSecond
}
