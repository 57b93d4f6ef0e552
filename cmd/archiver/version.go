package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/audit-table-archiver/archiver/internal/telemetry"
)

func (c *cli) versionCommand() *cobra.Command {
	return c.jsonFlag(&cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Long: `Print the version of this binary, and the Go release that it was built with.

Example:
  archiver version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !c.json {
				c.printf("archiver %s (%s %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
			return c.printJSON(build())
		},
	})
}

func build() telemetry.Build {
	return telemetry.Build{Version: buildVersion(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
}

// printJSON prints a document as one line on stdout.
func (c *cli) printJSON(v any) error { return json.NewEncoder(c.out).Encode(v) }

// buildVersion is what the linker was told, else the module version of a
// `go install`, else the commit that the binary was built from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if commit == "" {
		return "unknown"
	}
	return commit[:min(len(commit), 12)] + dirty
}
