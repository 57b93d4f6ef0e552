//go:build failpoint

package integration

import (
	"bytes"
	"os"

	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/layout"
)

// dataKeys are the keys of all objects but manifests.
func (tr *trial) dataKeys() []string {
	tr.t.Helper()
	var keys []string
	for _, k := range tr.bucket.Keys(tr.t) {
		if !layout.IsManifest(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// takeAway moves every data object out of the bucket, past the server. The
// function it returns brings them back.
func (tr *trial) takeAway() (back func()) {
	tr.t.Helper()
	keys := tr.dataKeys()
	require.NotEmpty(tr.t, keys)
	aside := tr.t.TempDir()
	// Renamed within one file system, so that extended attributes go along; a
	// bucket's folder is in the same temporary folder as the test's.
	for i, k := range keys {
		require.NoError(tr.t, os.Rename(tr.bucket.Path(k), asideName(aside, i)))
	}
	return func() {
		for i, k := range keys {
			require.NoError(tr.t, os.Rename(asideName(aside, i), tr.bucket.Path(k)))
		}
	}
}

func asideName(dir string, i int) string { return dir + "/" + string(rune('a'+i)) }

// damage flips one bit in every data object, past the server.
func (tr *trial) damage() (back func()) {
	tr.t.Helper()
	keys := tr.dataKeys()
	require.NotEmpty(tr.t, keys)
	flip := func() {
		for _, k := range keys {
			flipBit(tr, k)
		}
	}
	flip()
	return flip
}

func flipBit(tr *trial, key string) {
	body, err := os.ReadFile(tr.bucket.Path(key))
	if err != nil {
		tr.t.Errorf("damage %s: %v", key, err)
		return
	}
	damaged := bytes.Clone(body)
	damaged[len(damaged)/2] ^= 1
	f, err := os.OpenFile(tr.bucket.Path(key), os.O_WRONLY, 0) // in place: its attributes stay
	if err == nil {
		_, err = f.WriteAt(damaged, 0)
		if e := f.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		tr.t.Errorf("damage %s: %v", key, err)
	}
}
