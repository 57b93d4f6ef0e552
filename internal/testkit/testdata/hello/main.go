// Command hello is what the test of testkit.Build builds.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString(which + "\n") }
