package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWrongConfiguration tries what people get wrong in the file. Nothing is
// connected to, so that the servers in it need not be there.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*site)
		texts  []string
	}{
		"unknown key":           {func(s *site) { s.defaults += ", retension: 5d" }, []string{"defaults.retension", "retention"}},
		"missing retention":     {func(s *site) { s.defaults = "batch_size: 10" }, []string{"retention: is required"}},
		"below min_retention":   {func(s *site) { s.defaults = "retention: 3d" }, []string{"retention", "min_retention"}},
		"number without a unit": {func(s *site) { s.defaults = "retention: 90" }, []string{"defaults.retention", "unit"}},
		"same table twice":      {func(s *site) { s.tables = "- name: audit_logs\n- name: public.AUDIT_LOGS" }, []string{"tables[1].name"}},
		"all at once":           {func(s *site) { s.defaults = "retention: 3d, batch_size: 0" }, []string{"batch_size", "2 problems"}},
		"FULL, not allowed":     {func(s *site) { s.defaults += ", vacuum_mode: FULL" }, []string{"defaults.vacuum_mode", "allow: [vacuum_full]"}},
		"no schedule":           {func(s *site) { s.defaults += ", schedule: sometimes" }, []string{"defaults.schedule"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c.change(s)
			s.configure(t)
			for _, command := range []string{"config", "check", "work"} {
				s.run(t, command).expect(t, badUsage, c.texts...)
			}
		})
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	for name, c := range map[string]struct {
		args  []string
		texts []string
	}{
		"unknown command":       {[]string{"plna"}, []string{`unknown command "plna"`, "did you mean: archiver plan"}},
		"unknown flag":          {[]string{"plan", "--dryrun"}, []string{"--dryrun", "archiver plan --help"}},
		"argument":              {[]string{"plan", "audit_logs"}, []string{"audit_logs", "archiver plan --help"}},
		"unknown shell":         {[]string{"completion", "tcsh"}, []string{"tcsh"}},
		"flag without a value":  {[]string{"plan", "--cutoff"}, []string{"--cutoff"}},
		"no time":               {[]string{"plan", "--cutoff", "yesterday"}, []string{`--cutoff "yesterday"`, "2024-01-31"}},
		"time without a zone":   {[]string{"plan", "--cutoff", "2024-01-31T10:00:00"}, []string{"with its zone"}},
		"cutoff too late":       {[]string{"plan", "--cutoff", "2999-01-01"}, []string{"later than the retention of main.public.audit_logs", "nothing was planned", "earlier --cutoff"}},
		"run, cutoff too late":  {[]string{"run", "--cutoff", "2999-01-01"}, []string{"later than the retention", "nothing was planned"}},
		"unknown table":         {[]string{"plan", "--table", "audit_log"}, []string{"no configured table", "main.public.audit_logs"}},
		"unknown database":      {[]string{"run", "--database", "mian"}, []string{"no configured table", "main.public.audit_logs"}},
		"not a table's name":    {[]string{"check", "--table", "a.b.c"}, []string{"--table a.b.c", "schema.table"}},
		"not a duration":        {[]string{"work", "--drain", "--drain-patience", "5"}, []string{"drain-patience"}},
		"no configuration file": {[]string{"plan", "--config", "/nowhere.yaml"}, []string{"/nowhere.yaml", "--config"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := s.run(t, c.args...)
			r.expect(t, badUsage, c.texts...)
			require.Empty(t, r.out, "errors go to stderr")
		})
	}
	t.Run("as JSON", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{"plan", "--json", "--nope"}, {"plan", "--nope", "--json"}, {"plan", "--table", "nope", "--json"}} {
			r := s.run(t, args...)
			r.expect(t, badUsage)
			require.Equal(t, badUsage, r.jsonError(t).Code)
			require.NotEmpty(t, r.jsonError(t).Hint)
		}
	})
}

type jsonError struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
	Code  int    `json:"code"`
}

// jsonError decodes the last line of stderr.
func (r result) jsonError(t *testing.T) jsonError {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.err), "\n")
	var e jsonError
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &e), r.err)
	require.NotEmpty(t, e.Error)
	return e
}

func TestWrongTables(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	_, s.sourceURL = s.db.Role(t)
	s.db.Exec(t, `
		CREATE TABLE no_index (id bigint PRIMARY KEY, created_at timestamptz);
		CREATE TABLE no_key (id bigint, created_at timestamptz); CREATE INDEX ON no_key (created_at);
		CREATE TABLE parted (id bigint, created_at timestamptz, PRIMARY KEY (created_at, id)) PARTITION BY RANGE (created_at);
		CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
		GRANT SELECT, DELETE, UPDATE ON no_index, no_key, parted, parted_rest TO PUBLIC;
		ALTER TABLE audit_logs RENAME TO no_rights`)
	s.tables = "- name: nowhere\n- name: no_rights\n- name: no_index\n- name: no_key\n- name: parted\n- name: parted_rest"
	s.configure(t)
	for table, texts := range map[string][]string{
		"nowhere":     {"table_not_found", "main.public.nowhere"},
		"no_rights":   {"missing_privilege", `GRANT SELECT ON "public"."no_rights"`, "GRANT DELETE"},
		"no_index":    {"no_index", `CREATE INDEX CONCURRENTLY ON "public"."no_index"`},
		"no_key":      {"no_primary_key", "ADD PRIMARY KEY"},
		"parted_rest": {"parent_and_leaf", "main.public.parted"},
		"parted":      {"parent_and_leaf", "main.public.parted_rest"},
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			for _, command := range []string{"check", "plan", "run"} {
				s.run(t, command, "--table", table).expect(t, refused, texts...)
			}
		})
	}
	t.Run("all of them", func(t *testing.T) {
		t.Parallel()
		s.run(t, "plan").expect(t, refused, "all 6 tables are refused")
		var report checkReport
		s.json(t, &report, "check").expect(t, refused)
		require.False(t, report.OK)
		require.Equal(t, []string{"table_not_found"}, report.codes("public.nowhere", "refuse"))
		require.Equal(t, []string{"parent_and_leaf"}, report.codes("public.parted", "refuse"))
	})
}

type checkReport struct {
	OK       bool `json:"ok"`
	Findings []struct{ Database, Table, Code, Severity, Message, Hint string }
}

func (c checkReport) codes(table, severity string) []string {
	var out []string
	for _, f := range c.Findings {
		if f.Table == table && f.Severity == severity {
			out = append(out, f.Code)
		}
	}
	return out
}

// TestWrongServices takes one service away after the other.
func TestWrongServices(t *testing.T) {
	t.Parallel()
	const nobody = "postgres://nobody@127.0.0.1:1/none?sslmode=disable"
	for name, c := range map[string]struct {
		change func(*site)
		code   string   // of the finding
		texts  []string // of check
		errs   map[string]int
	}{
		"control down": {
			func(s *site) { s.controlURL = nobody }, "control_unreachable",
			[]string{"127.0.0.1:1", "check the address"},
			map[string]int{"plan": unreachable, "work": unreachable, "run": unreachable, "migrate": unreachable},
		},
		"control database missing": {
			func(s *site) { s.controlURL = strings.Replace(s.db.DSN, s.db.Name, "nowhere", 1) }, "control_unreachable",
			[]string{"nowhere", "create the database"},
			map[string]int{"migrate": unreachable},
		},
		"source down": {
			func(s *site) { s.sourceURL = nobody }, "source_unreachable",
			[]string{"database main", "check the address"},
			map[string]int{"plan": unreachable, "run": unreachable},
		},
		"storage down": {
			func(s *site) { s.endpoint = "http://127.0.0.1:1" }, "storage_unreachable",
			[]string{"http://127.0.0.1:1 can be reached"},
			map[string]int{"work": unreachable, "run": unreachable},
		},
		"bucket missing": {
			func(s *site) { s.bucketName = "nowhere" }, "bucket_unusable",
			[]string{"there is no bucket nowhere: create it"},
			map[string]int{"work": unreachable, "run": unreachable},
		},
		"wrong key": {
			func(s *site) { s.secretKey = "wrong-wrong-wrong" }, "bucket_unusable",
			[]string{"s3.access_key_id and s3.secret_access_key"},
			map[string]int{"work": unreachable, "run": unreachable},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTable(t)
			c.change(s)
			s.configure(t)
			s.run(t, "check").expect(t, unreachable, append(c.texts, c.code)...)
			for command, code := range c.errs {
				s.run(t, command).expect(t, code, c.texts...)
			}
			require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`), "nothing was deleted")
		})
	}
}

func TestOneSourceDownDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	s := newTable(t)
	s.databases = "- name: away\n  url: postgres://nobody@127.0.0.1:1/none?sslmode=disable\n  tables: [{name: t}]"
	s.configure(t)
	s.run(t, "plan", "--dry-run").expect(t, partly, "1 of 2 tables", "not planned", "5 batches with 500 rows would be enqueued")
	s.run(t, "run").expect(t, partly, "away.public.t: not planned", "500 rows archived")
	require.EqualValues(t, 100, s.db.Int(t, `SELECT count(*) FROM audit_logs`))
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.createTable(t)
	t.Log("before")
	s.run(t, "migrate", "--status").expect(t, notMigrated, "ledger", "archiver migrate")
	for _, command := range []string{"plan", "work", "run"} {
		s.run(t, command).expect(t, notMigrated, `control schema "archiver" is not migrated`, "run: archiver migrate")
	}
	s.run(t, "check").expect(t, notMigrated, "not_migrated", "run: archiver migrate")

	t.Log("five at once")
	var all []*process
	for range 5 {
		all = append(all, s.start(t, "migrate"))
	}
	worked := 0
	for _, p := range all {
		r := p.wait(t)
		r.expect(t, done)
		worked += strings.Count(r.out, "ledger 0 -> ")
	}
	require.Equal(t, 1, worked, "one works, the others find it done")
	s.run(t, "migrate").expect(t, done, "up to date")
	var status struct {
		Current  bool
		Versions struct{ Ledger, River int }
	}
	s.json(t, &status, "migrate", "--status").expect(t, done)
	require.True(t, status.Current)
	require.Positive(t, status.Versions.Ledger)
	s.run(t, "check").expect(t, done, "ok: 1 table can be archived")

	t.Log("a later release")
	s.db.Exec(t, `INSERT INTO archiver.ledger_migration (version, name) VALUES (99, 'of_the_future')`)
	for _, command := range []string{"plan", "work", "run", "migrate", "check"} {
		s.run(t, command).expect(t, notMigrated, "newer than this binary", "release")
	}
	s.run(t, "migrate", "--status").expect(t, notMigrated, "99", "newer than this binary")
}

func TestControlPrivileges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.createTable(t)
	role, dsn := s.db.Role(t)
	s.controlURL = dsn
	s.configure(t)
	s.run(t, "migrate").expect(t, failed, "permission denied", "CREATE SCHEMA archiver AUTHORIZATION")

	s.controlURL = s.db.DSN
	s.configure(t)
	s.run(t, "migrate").expect(t, done)
	s.controlURL = dsn
	s.configure(t)
	r := s.run(t, "check")
	r.expect(t, refused, "control_privilege", "GRANT USAGE ON SCHEMA archiver TO "+role)

	var report checkReport
	s.json(t, &report, "check")
	for _, f := range report.Findings {
		if f.Code == "control_privilege" {
			s.db.Exec(t, f.Hint)
		}
	}
	s.run(t, "check").expect(t, done)
	s.run(t, "run").expect(t, done, "500 rows archived")
}

func TestSpool(t *testing.T) {
	t.Parallel()
	t.Run("a file", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		s.expectSpoolRefused(t, file)
	})
	t.Run("read-only", func(t *testing.T) {
		t.Parallel()
		newTable(t).expectSpoolRefused(t, "/proc/self") // not even root can make a file there
	})
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		newTable(t).expectSpoolRefused(t, filepath.Join(t.TempDir(), "nowhere"))
	})
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		dir := t.TempDir()
		s.worker = `spool_dir: "` + dir + `"`
		s.configure(t)
		s.inSmallFolder(t, dir, "head -c 1m /dev/zero > "+dir+"/full; ", "work", "--drain").expect(t, badUsage, "worker.spool_dir: cannot write to "+dir, "no space left on device", "set worker.spool_dir")
	})
	t.Run("full in the middle", func(t *testing.T) {
		t.Parallel()
		s := newTable(t)
		dir := t.TempDir()
		s.worker = `spool_dir: "` + dir + `"`
		s.configure(t)
		s.db.Exec(t, `UPDATE audit_logs SET payload = (SELECT jsonb_agg(md5(random()::text)) FROM generate_series(1, 100) i WHERE id > 0) WHERE actor <> 'recent'`)
		s.inSmallFolder(t, dir, "", "run", "--drain-patience", "500ms").expect(t, partly, "no space left on device", "make room in that folder", "archiver jobs list --waiting")
		require.EqualValues(t, 600, s.db.Int(t, `SELECT count(*) FROM audit_logs`), "nothing was deleted")
	})
}

func (s *site) expectSpoolRefused(t *testing.T, dir string) {
	t.Helper()
	s.worker = `spool_dir: "` + dir + `"`
	s.configure(t)
	for _, command := range []string{"work", "run", "check"} {
		s.run(t, command).expect(t, badUsage, "worker.spool_dir: cannot write to "+dir, "set worker.spool_dir")
	}
}

// inSmallFolder runs the program where dir is a file system of 64 KiB that only it sees.
func (s *site) inSmallFolder(t *testing.T, dir, before string, args ...string) result {
	t.Helper()
	unshare := []string{"--mount"}
	if os.Geteuid() != 0 {
		unshare = []string{"--map-root-user", "--mount"}
	}
	program, err := exec.LookPath("unshare")
	require.NoError(t, err, "the tests need unshare, of util-linux")
	script := "mount -t tmpfs -o size=64k none " + dir + " || exit 99; " + before + `exec "$0" "$@"`
	return s.startCommand(t, program, append(append(unshare, "sh", "-c", script, s.program), args...)...).wait(t)
}
