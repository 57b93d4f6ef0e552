package objstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
)

// defaultRegion is what servers that have no regions expect in a signature.
const defaultRegion = "us-east-1"

// newClient makes the SDK's client. What matters is set here and not left to
// the SDK's defaults, which differ between its constructors.
func newClient(ctx context.Context, c Config, guard *breaker) (_ *s3.Client, closeIdle func(), _ error) {
	load := []func(*config.LoadOptions) error{
		// Not a plain http.Client: the SDK could not add the certificates of
		// AWS_CA_BUNDLE to it, and refuses to start where that is set.
		config.WithHTTPClient(newHTTPClient(c.Timeout)),
		config.WithLogger(logging.Nop{}),
	}
	if c.Region != "" {
		load = append(load, config.WithRegion(c.Region))
	}
	if c.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")))
	}
	loaded, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if loaded.Region == "" {
		if c.Endpoint == "" {
			return nil, nil, errors.New("no region: set s3.region or AWS_REGION")
		}
		loaded.Region = defaultRegion
	}
	buildable, ok := loaded.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return nil, nil, fmt.Errorf("the SDK replaced the HTTP client by a %T", loaded.HTTPClient)
	}
	transport := buildable.GetTransport() // with the certificates of AWS_CA_BUNDLE
	client := newPlainClient(transport, c.Transport)
	loaded.Credentials = aws.NewCredentialsCache(credentialSource{loaded.Credentials})
	made := s3.NewFromConfig(loaded, func(o *s3.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		o.UsePathStyle = c.PathStyle
		o.HTTPClient = client
		o.Retryer = newRetryer(c.Retry)
		o.RetryMaxAttempts = 0 // AWS_MAX_ATTEMPTS must not override the policy
		// We send a checksum of our own with every body. The SDK's default one
		// comes in a trailer, which older servers answer with an error.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		// Get compares the checksum itself, see withChecksum.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		o.Logger = logging.Nop{}
		o.ClientLogMode = 0
		o.APIOptions = append(o.APIOptions, guard.middleware)
		if c.UserAgent != "" {
			name, version, _ := strings.Cut(c.UserAgent, "/")
			o.APIOptions = append(o.APIOptions, awsmiddleware.AddUserAgentKeyValue(name, version))
		}
	})
	return made, transport.CloseIdleConnections, nil
}

// newHTTPClient is the SDK's client with time limits: its own waits for ever on
// a connection over which nothing comes any more.
func newHTTPClient(timeout time.Duration) *awshttp.BuildableClient {
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second), KeepAlive: 30 * time.Second}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: conn, limit: timeout}, nil
		}
		t.TLSHandshakeTimeout = min(timeout, 10*time.Second)
		t.ResponseHeaderTimeout = timeout
		t.MaxIdleConnsPerHost = 32
		t.IdleConnTimeout = 30 * time.Second
		// An object is delivered as it is stored, whatever its Content-Encoding.
		t.DisableCompression = true
	})
}

// newPlainClient is the client around a transport and what wraps it.
func newPlainClient(transport http.RoundTripper, wrap func(http.RoundTripper) http.RoundTripper) *http.Client {
	if wrap != nil {
		transport = wrap(transport)
	}
	return &http.Client{
		Transport: transport,
		// A redirect names another host, for which the signature is not valid; it
		// is reported as what it is, a wrong region or endpoint.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// stallConn gives up when nothing could be read or written for a while. The
// deadline moves with each read and write, so only a standstill counts.
type stallConn struct {
	net.Conn
	limit time.Duration
}

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	// The reading side too: HTTP/1 already waits for the answer's first byte
	// while the request is still being sent.
	if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// credentialSource marks the errors of the credential chain, whose own types
// say nothing, so that an operator is told where to look.
type credentialSource struct{ aws.CredentialsProvider }

func (c credentialSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return found, &credentialError{err}
	}
	return found, nil
}

type credentialError struct{ err error }

func (e *credentialError) Error() string { return "no AWS credentials: " + e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }
