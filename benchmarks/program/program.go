// Package program finds the programs of others that a benchmark runs.
package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Find looks for a program beside those of the database server first, as one that speaks
// with the server should be of its version, and then on the PATH. Without it a benchmark
// cannot go on; hint says where it comes from.
func Find(name, binDir, hint string) (string, error) {
	beside := filepath.Join(binDir, name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return beside, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is needed, and is neither beside the programs of the database server (%s) nor on the PATH; hint: %s", name, binDir, hint)
	}
	return path, nil
}
