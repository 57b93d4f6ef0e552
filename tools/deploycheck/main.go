// Command deploycheck renders kustomizations as kubectl does, and decodes each
// document strictly into the types of the Kubernetes API: an unknown key, a wrong
// type or a duplicate is an error. It needs no cluster and no network.
//
//	deploycheck DIR...
package main

import (
	"fmt"
	"os"
)

func main() {
	code := 0
	for _, dir := range os.Args[1:] {
		docs, err := Render(dir)
		if err == nil {
			err = Check(docs)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", dir, err)
			code = 1
			continue
		}
		fmt.Fprintf(os.Stdout, "%s: %d documents, all sound\n", dir, len(docs))
	}
	os.Exit(code)
}
