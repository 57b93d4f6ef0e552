package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const kubernetes = "../../deploy/kubernetes"

// overlays are all the kustomizations of the source tree.
func overlays(t *testing.T, root string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(root, "overlays", "*"))
	require.NoError(t, err)
	require.Len(t, dirs, 2)
	return append(dirs, filepath.Join(root, "base"))
}

func TestManifests(t *testing.T) {
	t.Parallel()
	for _, dir := range overlays(t, kubernetes) {
		docs, err := Render(dir)
		require.NoError(t, err, dir)
		require.NoError(t, Check(docs), dir)
		require.GreaterOrEqual(t, len(docs), 8, dir)
	}
	// It is no part of any kustomization, and is to be sound all the same.
	text, err := os.ReadFile(filepath.Join(kubernetes, "base", "secret.example.yaml"))
	require.NoError(t, err)
	object, err := typeOf(Document{})
	require.Error(t, err)
	require.Nil(t, object)
	d := Document{Text: text}
	d.APIVersion, d.Kind = "v1", "Secret"
	require.NoError(t, Check([]Document{d}))
}

// TestOverlayOfTheDocs renders what docs/DEPLOYMENT.md shows, on this source tree.
func TestOverlayOfTheDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/DEPLOYMENT.md")
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "```yml\n# kustomization.yaml\n")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "```")
	remote := regexp.MustCompile(`github\.com/audit-table-archiver/archiver/deploy/kubernetes/(\S+)\?ref=\S+`)
	require.Regexp(t, remote, text)
	root := t.TempDir()
	require.NoError(t, os.CopyFS(root, os.DirFS(kubernetes)))
	mine := filepath.Join(root, "mine")
	require.NoError(t, os.Mkdir(mine, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(mine, "kustomization.yaml"), []byte(remote.ReplaceAllString(text, "../$1")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(mine, "archiver.yaml"), []byte("mine: true\n"), 0o600))
	docs, err := Render(mine)
	require.NoError(t, err)
	require.NoError(t, Check(docs))
	all := ""
	for _, d := range docs {
		all += string(d.Text)
	}
	require.Contains(t, all, "mine: true")
	require.NotContains(t, all, "orders-primary", "the base's configuration is replaced")
	require.Equal(t, 2, strings.Count(all, "image: ghcr.io/you/archiver:v1.0.0"))
}

// TestMistakes: each of these would otherwise be found by a cluster, or by nobody.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, old, new, want string }{
		{"base/deployment.yaml", "revisionHistoryLimit: 5", "revisionsHistoryLimit: 5", `unknown field "spec.revisionsHistoryLimit"`},
		{"base/deployment.yaml", "terminationGracePeriodSeconds: 150", "terminationgraceperiodseconds: 150", "unknown field"},
		{"base/deployment.yaml", "revisionHistoryLimit: 5", "revisionHistoryLimit: five", "cannot unmarshal string"},
		{"base/deployment.yaml", "memory: 512Mi", "memory: 512MB", "quantities must match"},
		{"base/deployment.yaml", "httpGet: {path: /readyz, port: http}", "httpGet: {path: /readyz, port: htpp}", "a probe asks no port"},
		{"base/deployment.yaml", "serviceAccountName: archiver", "serviceAccountName: archivist", "there is no ServiceAccount/archivist"},
		{"base/deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "restricted standard"},
		{"base/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only root"},
		{"base/deployment.yaml", "configMap: {name: archiver}", "configMap: {name: archive}", "there is no ConfigMap/archive"},
		{"base/deployment.yaml", "{name: spool, mountPath: /spool}", "{name: pool, mountPath: /spool}", "is no volume"},
		{"base/poddisruptionbudget.yaml", "component: worker", "component: works", "selects no pod"},
		{"base/service.yaml", "targetPort: http", "targetPort: metrics", `no container has a port "metrics"`},
		{"base/networkpolicy.yaml", "port: ui}", "port: web}", `no container has a port "web"`},
		{"base/networkpolicy.yaml", "kind: NetworkPolicy", "kind: NetworkPolice", "unknown kind"},
		{"overlays/keda/scaledobject.yaml", "minReplicaCount: 1", "minReplicas: 1", "unknown field"},
		{"overlays/keda/scaledobject.yaml", "        name: archiver-control\n      metadata", "        name: other\n      metadata", "there is no TriggerAuthentication/other"},
		{"overlays/keda/kustomization.yaml", "{op: remove, path: /spec/replicas}", "{op: remove, path: /spec/revisionHistoryLimit}", "has a number of replicas"},
		{"overlays/hpa/horizontalpodautoscaler.yaml", "averageUtilization: 70", "averageUtilisation: 70", "unknown field"},
	} {
		t.Run(c.file+" "+c.new, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			require.NoError(t, os.CopyFS(root, os.DirFS(kubernetes)))
			file := filepath.Join(root, c.file)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(text), c.old)
			require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), c.old, c.new, 1)), 0o600))
			var found []string
			for _, dir := range overlays(t, root) {
				docs, err := Render(dir)
				if err == nil {
					err = Check(docs)
				}
				if err != nil {
					found = append(found, err.Error())
				}
			}
			require.Contains(t, strings.Join(found, "\n"), c.want)
		})
	}
}
