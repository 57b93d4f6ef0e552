package objstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	mib = 1 << 20
	// minPartBytes and maxParts are limits of S3; the last part may be smaller.
	minPartBytes = 5 * mib
	maxParts     = 10_000
	// maxPutBytes is the largest object that S3 takes in one request.
	maxPutBytes = 5 << 30

	defaultMultipartThreshold = 10 * mib
	defaultPartBytes          = 8 * mib
	defaultTimeout            = 60 * time.Second
)

// Config says where the objects are and how they are to be kept. Zero values
// mean what the field's comment says.
type Config struct {
	Bucket string
	// Prefix is the folder that Probe writes to. The other methods take whole
	// keys: an object must stay readable after the prefix was changed.
	Prefix string
	// Region may be empty where the environment has one, or with an Endpoint.
	Region string
	// Endpoint is the URL of an S3-compatible server; empty means AWS.
	Endpoint string
	// PathStyle puts the bucket into the path instead of the host name.
	PathStyle bool
	// AccessKeyID and SecretAccessKey; both empty means the AWS default chain.
	AccessKeyID, SecretAccessKey string

	// StorageClass of new objects; empty means the bucket's. It must be one that
	// can be read at once, since every object is read back.
	StorageClass string
	SSE          string // "", "none", "AES256" or "aws:kms"
	KMSKeyID     string // with aws:kms; empty means the account's own key

	// MultipartThreshold is the size in bytes from which on an object goes up in
	// parts; 0 means 10 MiB.
	MultipartThreshold int64
	// PartSize in bytes, at least 5 MiB; 0 means 8 MiB. It grows by itself where
	// an object would need more than 10,000 parts.
	PartSize int64

	Retry RetryPolicy
	// Breaker keeps requests from a store that is down; the zero value does not.
	Breaker BreakerPolicy
	// Timeout is how long a connection may stand still before it is given up; 0
	// means 60 s. A transfer that makes progress may take any time.
	Timeout time.Duration
	// Transport wraps the HTTP transport, for tests that need faults; nil does not.
	Transport func(http.RoundTripper) http.RoundTripper
	// UserAgent is added to the SDK's own, such as "archiver/1.2"; may be empty.
	UserAgent string
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.MultipartThreshold == 0 {
		c.MultipartThreshold = defaultMultipartThreshold
	}
	c.MultipartThreshold = min(c.MultipartThreshold, maxPutBytes)
	if c.PartSize == 0 {
		c.PartSize = defaultPartBytes
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.SSE == "none" {
		c.SSE = ""
	}
	c.Retry = c.Retry.withDefaults()
	return c
}

// validate names the first setting that cannot work.
func (c Config) validate() error {
	switch {
	case c.Bucket == "":
		return errors.New("no bucket is named")
	case (c.AccessKeyID == "") != (c.SecretAccessKey == ""):
		return errors.New("an access key id and a secret access key need each other")
	case c.MultipartThreshold < 0:
		return fmt.Errorf("multipart threshold of %d bytes: must be positive", c.MultipartThreshold)
	case c.PartSize < minPartBytes:
		return fmt.Errorf("part size of %d bytes: S3 needs at least %d", c.PartSize, minPartBytes)
	case c.SSE != "" && c.SSE != string(types.ServerSideEncryptionAes256) && c.SSE != string(types.ServerSideEncryptionAwsKms):
		return fmt.Errorf("encryption %q: must be none, AES256 or aws:kms", c.SSE)
	case c.KMSKeyID != "" && c.SSE != string(types.ServerSideEncryptionAwsKms):
		return errors.New("a KMS key needs the encryption aws:kms")
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return errors.New("the endpoint must be a URL such as https://s3.example.com:9000")
		}
		if u.User != nil {
			return errors.New("the endpoint must not hold credentials")
		}
	}
	return errors.Join(c.Retry.validate(), c.Breaker.validate())
}

// Store is one bucket. Its methods may be called at the same time.
type Store struct {
	client    *s3.Client
	closeIdle func()
	config    Config
	breaker   *breaker // nil: none
}

// Open prepares a store; it reads the environment and the AWS files, but sends
// nothing. An error means that the configuration cannot work.
func Open(ctx context.Context, c Config) (*Store, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("open object store: %w", err)
	}
	guard := newBreaker(c.Breaker)
	client, closeIdle, err := newClient(ctx, c, guard)
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", c.Bucket, err)
	}
	return &Store{client: client, closeIdle: closeIdle, config: c, breaker: guard}, nil
}

// Close closes the connections that are kept for reuse. The store may be used
// after it.
func (s *Store) Close() { s.closeIdle() }

// Blob describes the bytes of an upload. All of it must be right: the store
// refuses bytes that have another hash or checksum.
type Blob struct {
	Size        int64 // in bytes
	SHA256      [32]byte
	CRC64NVME   uint64
	ContentType string
	Metadata    map[string]string // ASCII only; keys in lower case
}

// Object is what the store says of an object.
type Object struct {
	Key string
	// VersionID is empty in a bucket without versioning, and from List.
	VersionID string
	Size      int64 // in bytes
	// CRC64NVME is of the whole object; nil where the store keeps none, and from List.
	CRC64NVME *uint64
	// LastModified is zero from an upload that the store acknowledged by itself.
	LastModified time.Time
	// StorageClass is empty from an upload that the store acknowledged by itself.
	StorageClass string
}

// bucket is the name in the form that the SDK takes.
func (s *Store) bucket() *string { return aws.String(s.config.Bucket) }

// optional leaves a header out when there is nothing to say.
func optional(value string) *string {
	if value == "" {
		return nil
	}
	return aws.String(value)
}
