package deploy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScraping holds that Prometheus finds the metrics of a replica, and is let in.
func TestScraping(t *testing.T) {
	t.Parallel()
	c := kubernetes(t)
	service := decode[struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct {
			ClusterIP string `yaml:"clusterIP"`
			Ports     []struct {
				Port       int
				TargetPort string `yaml:"targetPort"`
			}
		}
	}](t, "deploy/kubernetes/base/service.yaml")
	require.Equal(t, "None", service.Spec.ClusterIP, "an address for each replica")
	require.Len(t, service.Spec.Ports, 1)
	require.Equal(t, "http", service.Spec.Ports[0].TargetPort)
	require.Equal(t, map[string]string{
		"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics", "prometheus.io/port": strings.TrimPrefix(c.Worker.Listen, ":"),
	}, service.Metadata.Annotations)

	policy := decode[struct {
		Spec struct {
			Ingress []struct {
				From  []any
				Ports []struct{ Port string }
			}
		}
	}](t, "deploy/kubernetes/base/networkpolicy.yaml")
	open := map[string]bool{}
	for _, in := range policy.Spec.Ingress {
		require.NotEmpty(t, in.From, "not from everywhere")
		for _, p := range in.Ports {
			open[p.Port] = true
		}
	}
	require.True(t, open["http"], "the port of the metrics")
}
