// Package failpoint lets tests stop the archiver at a named point.
//
// Without the build tag `failpoint` every Hit is an empty function that the
// compiler removes, so a release binary has no way to be stopped by it. With the
// tag, a test registers what shall happen at a point (return an error, block,
// change a row), and a child process reads ARCHIVER_FAILPOINTS, a comma-separated
// list of `name=action[@n]`: at the n-th hit (the first by default) of that
// name, `kill` ends the process with SIGKILL, `stop` sends SIGSTOP, `error`
// returns an error; `slow@n` sleeps n milliseconds at every hit.
//
// Hit marks a point between two steps; Writer and ReaderAt mark one inside a
// stream, which is hit again for each piece of it.
package failpoint
