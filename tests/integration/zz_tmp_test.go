package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestZZ(t *testing.T) {
	s := newSite(t, `- name: wide`)
	s.db.Exec(t, userTypes)
	for _, n := range []int{10, 300, 1500} {
		wide := "DROP TABLE IF EXISTS wide; CREATE TABLE wide (id int PRIMARY KEY, created_at timestamptz DEFAULT '2020-01-01' NOT NULL"
		for i := range n {
			wide += fmt.Sprintf(", c%d %s", i, []string{"int", "text", "numeric[]", "jsonb", `"My.Types""".pair`}[i%5])
		}
		s.db.Exec(t, wide+")")
		_, err := s.src.Describe(t.Context(), s.cfg.Databases[0].Tables[0])
		require.NoError(t, err)
		start := time.Now()
		for range 5 {
			_, err := s.src.Describe(t.Context(), s.cfg.Databases[0].Tables[0])
			require.NoError(t, err)
		}
		fmt.Println("describe", n, time.Since(start)/5)
	}
}
