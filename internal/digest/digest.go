// Package digest computes an order-free fingerprint of a set of row versions.
//
// The archiver reads rows in key order and the delete returns them in whatever
// order Postgres found them, so the two sides are compared as multisets: a row
// count and the sum, modulo 2^128, of a 128-bit hash of each row version. A sum
// (not an exclusive or) keeps a row that is counted twice from cancelling out.
//
// A row version is named by (tableoid, ctid, xmin): the partition it lives in,
// its place there, and the transaction that wrote it. Updating a row changes its
// ctid and xmin, so any change between reading and deleting changes the digest.
// xmin is 32 bits wide and a ctid can be used again after a vacuum, so these
// three alone tell versions apart only over the minutes between reading and
// deleting, on one server. Where that is not enough (reading from a replica)
// the content hash of the row is mixed in as well.
//
// The hash is XXH3, which is a tenth of the cost of a cryptographic one. Nobody
// chooses a ctid and an xmin to deceive; whoever could, could delete the row.
package digest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// Digest is the fingerprint of a multiset of row versions. The zero value is the
// digest of no rows, and two digests are equal (==) exactly when both their
// counts and their sums are.
type Digest struct {
	Count  int64
	Hi, Lo uint64
}

// Row names one row version. Content is 0 unless the content guard is on.
type Row struct {
	TableOID uint32
	Block    uint32 // ctid: block number
	Offset   uint16 // ctid: line pointer within the block
	Xmin     uint32
	Content  int64 // hashtextextended(t::text, 0)
}

// Add counts one row version. It does not allocate.
func (d *Digest) Add(r Row) {
	var b [22]byte
	binary.BigEndian.PutUint32(b[0:], r.TableOID)
	binary.BigEndian.PutUint32(b[4:], r.Block)
	binary.BigEndian.PutUint16(b[8:], r.Offset)
	binary.BigEndian.PutUint32(b[10:], r.Xmin)
	binary.BigEndian.PutUint64(b[14:], uint64(r.Content))
	sum := xxh3.Hash128(b[:])
	var carry uint64
	d.Lo, carry = bits.Add64(d.Lo, sum.Lo, 0)
	d.Hi, _ = bits.Add64(d.Hi, sum.Hi, carry)
	d.Count++
}

// String is the count and the sum in hex, as the ledger and the manifest keep it.
func (d Digest) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], d.Hi)
	binary.BigEndian.PutUint64(b[8:], d.Lo)
	return fmt.Sprintf("%d:%s", d.Count, hex.EncodeToString(b[:]))
}

// Parse reads what String wrote.
func Parse(s string) (Digest, error) {
	var d Digest
	var sum string
	if n, err := fmt.Sscanf(s, "%d:%s", &d.Count, &sum); n != 2 || err != nil {
		return Digest{}, fmt.Errorf("digest %q: want count:hex", s)
	}
	b, err := hex.DecodeString(sum)
	if err != nil || len(b) != 16 || d.Count < 0 {
		return Digest{}, fmt.Errorf("digest %q: want count:32 hex digits", s)
	}
	d.Hi, d.Lo = binary.BigEndian.Uint64(b[0:]), binary.BigEndian.Uint64(b[8:])
	return d, nil
}
