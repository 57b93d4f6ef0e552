// Package encode turns the rows that Postgres streams out into the bytes that are
// stored, and proves later that stored bytes are still those rows.
//
// It is pure: it knows neither database connections nor object storage. A Writer
// takes the byte stream of
//
//	COPY (SELECT [tableoid,] ctid, xmin [, content hash], columns...) TO STDOUT (FORMAT binary)
//
// in pieces of any size and writes compressed JSONL to a spool. Verify and NewReader
// read such objects back.
//
// # Terms
//
// A raw byte is a byte of JSONL, a stored byte is one after compression. A tuple is
// one row in the COPY stream: a count and that many length-prefixed fields. The
// leading fields (digest.Columns) name the row version; they go into the digest, never
// into the JSONL.
//
// # Invariants
//
//   - A line is exactly what row_to_json prints for the row under the pinned session
//     settings, followed by one line feed. Two exceptions: a line break inside a json
//     value (it can only be white space there) becomes a space, and a column with
//     OmitNull leaves its key out where the SQL value is NULL.
//   - A number never passes through a float of another width and a date never through
//     time.Time, so nothing is rounded, clamped or normalised.
//   - A type has a fast path only if its text does not depend on the server's version.
//     interval (17 gave the extreme value the meaning of infinity) and "char" (16
//     changed its high bytes) do not qualify: the server renders them with to_json.
//   - Equal rows give equal stored bytes, however the stream is cut into pieces: no
//     time, name or operating system in the gzip header, one compressor thread, and
//     blocks cut by the rows alone. Object keys carry the hash of these bytes.
//   - Memory is bounded by a few blocks and the largest single row. A length claimed by
//     the stream is never allocated before its bytes have arrived.
//
// # Failures
//
// Every error of a Writer is final: later calls return it again, and Close returns it
// after stopping the compressing goroutine. A stream that does not end with the COPY
// trailer gives ErrTruncated, so an object is only ever complete or an error. Nothing
// here deletes anything: an error means that the batch's rows stay where they are.
package encode
