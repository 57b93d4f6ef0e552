package testkit

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

// s3Region is the region of the local server.
const s3Region = "us-east-1"

// Bucket is an empty bucket of a test's own, on a server that speaks path-style
// addressing over plain HTTP.
type Bucket struct {
	Endpoint  string
	AccessKey string
	SecretKey string
	Region    string
	Name      string
	Dir       string // holds the objects as plain files, for tests that damage them
	Server    *localserver.S3
}

// S3 creates a bucket without versions on the server that the tests of this
// process share. It goes with the test.
func S3(t testing.TB) *Bucket {
	t.Helper()
	return newBucket(t, false)
}

// VersionedS3 is S3 with versioning turned on.
func VersionedS3(t testing.TB) *Bucket {
	t.Helper()
	return newBucket(t, true)
}

func newBucket(t testing.TB, versioned bool) *Bucket {
	t.Helper()
	server := sharedS3(t)
	b := &Bucket{
		Endpoint: server.Endpoint, AccessKey: server.AccessKey, SecretKey: server.SecretKey, Region: s3Region,
		Name: strings.ReplaceAll(uniqueName(t), "_", "-"), Server: server,
	}
	b.Dir = server.ObjectPath(b.Name, "")
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	require.NoError(t, server.CreateBucket(ctx, b.Name, versioned))
	t.Cleanup(func() {
		if err := os.RemoveAll(b.Dir); err != nil {
			t.Errorf("remove bucket %s: %v", b.Name, err)
		}
	})
	return b
}

func sharedS3(t testing.TB) *localserver.S3 {
	t.Helper()
	lockShared(t)
	defer shared.mu.Unlock()
	if shared.s3 == nil {
		ctx, cancel := bounded(t, serverStartTimeout)
		defer cancel()
		// Only a build is worth a line; the server's own log is not.
		binary, err := localserver.FindS3(ctx, os.Stderr)
		require.NoError(t, err)
		server, err := localserver.StartS3(ctx, localserver.S3Options{Binary: binary})
		require.NoError(t, err)
		shared.s3 = server
	}
	return shared.s3
}

// transport is shared, so that a test that reads thousands of objects does it over a few
// connections: the server refuses more than 4096.
var transport = awshttp.NewBuildableClient()

// Client returns a client of the bucket's server, with the SDK's own settings.
func (b *Bucket) Client() *s3.Client {
	return s3.New(s3.Options{
		HTTPClient:   transport,
		Region:       b.Region,
		BaseEndpoint: aws.String(b.Endpoint),
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(b.AccessKey, b.SecretKey, ""),
	})
}

// Keys lists the keys of all objects, in order.
func (b *Bucket) Keys(t testing.TB) []string {
	t.Helper()
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	var keys []string
	pages := s3.NewListObjectsV2Paginator(b.Client(), &s3.ListObjectsV2Input{Bucket: aws.String(b.Name)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		require.NoError(t, err, "list bucket %s", b.Name)
		for _, object := range page.Contents {
			keys = append(keys, aws.ToString(object.Key))
		}
	}
	return keys
}

// Read returns the bytes of an object, as they were stored.
func (b *Bucket) Read(t testing.TB, key string) []byte {
	t.Helper()
	ctx, cancel := bounded(t, callTimeout)
	defer cancel()
	out, err := b.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(b.Name), Key: aws.String(key)})
	require.NoError(t, err, "get %s", key)
	content, err := io.ReadAll(out.Body)
	require.NoError(t, err, "read %s", key)
	require.NoError(t, out.Body.Close())
	return content
}

// Path is the file that holds the newest version of an object.
func (b *Bucket) Path(key string) string { return b.Server.ObjectPath(b.Name, key) }
