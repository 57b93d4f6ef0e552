// Package objstore keeps objects in S3, or in a server that speaks S3, under the
// rules that make it safe to delete the rows an object holds.
//
// # Terms
//
// A blob is what the caller wants to store: bytes that can be read more than
// once, with their length, SHA-256 and CRC64NVME, all known beforehand. An
// object is what the store says it has. The settlement of an upload is the
// answer to "is it there?" when the store's own answer was lost or was "there is
// something already".
//
// # Invariants
//
//   - Nothing is ever overwritten: every write carries If-None-Match: *. Where a
//     server ignores that (see [Probe]), the caller's keys, which carry the hash
//     of the content, keep two contents apart.
//   - Nothing is ever deleted. The only removal is that of unfinished multipart
//     uploads, which are not objects.
//   - Put returns an object only if the store has acknowledged these very bytes:
//     it has checked the CRC64NVME sent along, or an object of the same size and
//     checksum stands under the key. The same call twice gives the same object.
//   - Bytes that Get delivers up to io.EOF have the length that the store
//     announced and, where it keeps a CRC64NVME of the whole object, that
//     checksum. HEAD proves nothing about bytes: it repeats what was said at the
//     upload, whatever became of the disk since.
//
// # Large objects
//
// From the multipart threshold on a blob goes up in parts, a few at a time, with
// a FULL_OBJECT checksum: that is the kind which can be compared with the blob's
// own and checked on reading; a COMPOSITE one is made from those of the parts.
// An upload that fails is aborted, also after the caller's context was cancelled.
// A process that is killed leaves its parts behind; the next upload of the same
// key clears them away, and a bucket should have a lifecycle rule
// (AbortIncompleteMultipartUpload) for the rest.
//
// # Failure handling
//
// Each request is tried RetryPolicy.MaxAttempts times. An error that is left is an
// *Error, which has the operation, the key and often a hint for the operator; its
// cause is one of four kinds:
//
//	IsNotFound     there is no such object or version
//	IsPermanent    trying again is useless until somebody changes something
//	IsUnavailable  the store or the way to it is at fault; later may work
//	none of them   this object or this blob is at fault, such as ErrCorrupt
//
// ErrDifferent is permanent: another content stands under the key.
//
// After BreakerPolicy.Failures calls in a row that ended in an outage, each after its
// retries, the breaker opens: calls fail at once with an *OpenError, which
// IsUnavailable. When BreakerPolicy.Recovery has passed one call is sent; it closes the
// breaker, or opens it for as long again. A refusal, or an object that is not there, is
// an answer and counts as none. What breaks off after the first byte of a GET's body
// is not counted.
package objstore
