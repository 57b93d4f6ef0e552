package objstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/minio/crc64nvme"
)

// probeText is what Probe writes. Its hash is in the key, so that a change of
// the text is a new object.
const probeText = "This object was written by the archiver to find out whether the bucket can be written and read. It may be removed.\n"

// probeKey is where probeText is kept.
func (s *Store) probeKey() string {
	sum := sha256.Sum256([]byte(probeText))
	return path.Join(s.config.Prefix, ".archiver", fmt.Sprintf("probe-%x", sum[:8]))
}

// Probe is what a bucket turned out to do.
type Probe struct {
	Key string // the object that was written or found
	// Conditional says that the store refused to write to a key that has an
	// object. Without it two writers of one key are told apart only by the
	// content hash in their keys.
	Conditional bool
	// Versioned says that the bucket keeps versions.
	Versioned bool
	// Checksum says that the store keeps the checksum of a whole object and
	// returns it, so that a read is checked twice.
	Checksum bool
}

// Probe writes a small object under the prefix, with the storage class and the
// encryption of every other object, reads it back, and tries to write it again.
// The key and the content are always the same, so the bucket gets one such
// object, and nothing has to be deleted. An error says what the role may not do
// or what is wrong with the bucket.
func (s *Store) Probe(ctx context.Context) (Probe, error) {
	content := strings.NewReader(probeText)
	b := Blob{
		Size:        content.Size(),
		SHA256:      sha256.Sum256([]byte(probeText)),
		CRC64NVME:   crc64nvme.Checksum([]byte(probeText)),
		ContentType: "text/plain",
	}
	p := Probe{Key: s.probeKey()}

	// At most two writes: the first may find the key free, the second must not.
	for range 2 {
		_, err := s.putWhole(ctx, p.Key, content, b)
		if p.Conditional = isConflict(err); p.Conditional {
			break
		}
		if err != nil {
			return p, s.fail("probe", p.Key, fmt.Errorf("write: %w", err))
		}
	}
	object, err := s.head(ctx, p.Key, "")
	if err != nil {
		return p, s.fail("probe", p.Key, fmt.Errorf("look: %w", err))
	}
	sum, err := s.readSHA256(ctx, object)
	if err != nil {
		return p, err
	}
	if sum != b.SHA256 {
		return p, s.fail("probe", p.Key, errors.New("the bytes read are not those written"))
	}
	p.Versioned = object.VersionID != "" && object.VersionID != "null"
	p.Checksum = object.CRC64NVME != nil
	return p, nil
}
