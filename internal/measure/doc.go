// Package measure tries how fast a table can be archived, without archiving it.
//
// It goes the way of a batch as far as that changes nothing: cut the oldest rows into
// batches, read, encode, compress, hash, spool, read back, decode and count. Rows are not
// deleted and the ledger is not touched. Objects are uploaded only where asked for, under
// a prefix of their own, and they stay: the archiver never deletes an object.
//
// At the end the same rows are read once more, as a plain COPY to nowhere, to be compared
// with.
//
// What it cannot measure is the delete, which takes about as long as reading does where
// the server's disk keeps up, the vacuum after it, and what all of it costs the server.
package measure
