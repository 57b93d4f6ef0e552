package demo

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/audit-table-archiver/archiver/internal/localserver"
)

const (
	manifestSuffix = ".manifest.json"
	rowsSuffix     = ".jsonl.gz"
)

// bucket reads the demo's bucket with nothing but the AWS SDK.
type bucket struct{ client *s3.Client }

func openBucket(server *localserver.S3) bucket {
	return bucket{s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(server.Endpoint), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})}
}

// entry is one object of a listing.
type entry struct {
	key   string
	bytes int64
}

// contents is what the bucket holds, in the order of the keys.
type contents struct {
	entries []entry
	objects int      // with a manifest
	samples []string // the line in the middle of each of them
}

// firstObject is the key of the first object that holds rows.
func (c contents) firstObject() string {
	for _, e := range c.entries {
		if strings.HasSuffix(e.key, rowsSuffix) {
			return e.key
		}
	}
	return ""
}

func (b bucket) list(ctx context.Context) (contents, error) {
	var c contents
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: aws.String(bucketName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return c, fmt.Errorf("list the bucket: %w", err)
		}
		for _, o := range page.Contents {
			c.entries = append(c.entries, entry{key: aws.ToString(o.Key), bytes: aws.ToInt64(o.Size)})
		}
	}
	return c, nil
}

// get reads a whole object, with an empty version its newest one; those of the demo
// fit into memory.
func (b bucket) get(ctx context.Context, key, version string) ([]byte, error) {
	in := &s3.GetObjectInput{Bucket: aws.String(bucketName), Key: aws.String(key)}
	if version != "" {
		in.VersionId = aws.String(version)
	}
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	defer out.Body.Close() //nolint:errcheck // nothing is written; a failed read has shown itself
	body, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	return body, nil
}
