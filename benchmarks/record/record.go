// Package record is what every benchmark writes down beside its numbers: when, of which
// source, and on what machine.
package record

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Run is where and when something was measured.
type Run struct {
	At      time.Time `json:"at"`
	Commit  string    `json:"commit"`
	Machine Machine   `json:"machine"`
}

// Machine is what all that was measured ran on.
type Machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Load  string `json:"load_before"` // other work on the machine makes times useless, and CPU seconds doubtful
}

// Here is called before anything is measured, for the load.
func Here(ctx context.Context) Run {
	return Run{At: time.Now().UTC(), Commit: commit(ctx), Machine: thisMachine()}
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close() //nolint:errcheck // only read
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	return m
}

// commit names the source that is measured; empty outside of a clone.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Save writes doc as JSON to a file of the folder, whose name begins with the time and
// ends with what was measured. It returns the file.
func (r Run) Save(folder, what string, doc any) (string, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(folder, r.At.Format("20060102T150405Z")+"-"+what+".json")
	return file, os.WriteFile(file, append(text, '\n'), 0o600)
}
