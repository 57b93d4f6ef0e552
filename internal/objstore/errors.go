package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

var (
	// ErrDifferent means that another content stands under the key. It was left
	// as it is.
	ErrDifferent = errors.New("another object stands under this key")
	// ErrCorrupt means that an object was delivered in full, but with bytes that
	// do not have the checksum which the store keeps for them.
	ErrCorrupt = errors.New("the bytes do not match the checksum that the store keeps")

	// errInvalid marks a call that no store could carry out.
	errInvalid = errors.New("invalid argument")
	// errVanished means that the store denied both the upload and the object.
	errVanished = errors.New("the store reports neither the upload nor an object")
)

const (
	statusRequestTimeout  = http.StatusRequestTimeout
	statusTooManyRequests = http.StatusTooManyRequests
)

// damagedInFlight are the answers to a body that arrived other than it was
// sent. The SDK does not try these again, though nothing was stored.
var damagedInFlight = map[string]bool{
	"BadDigest":                   true,
	"XAmzContentSHA256Mismatch":   true,
	"XAmzContentChecksumMismatch": true,
	"IncompleteBody":              true,
}

// Error is a failed operation. Its text says what failed and on what, and holds
// no credentials.
type Error struct {
	Op   string // "put", "get", "head", "list" or "probe"
	Key  string // the object's key, or the prefix of a list
	Err  error
	Hint string // what the operator can do, may be empty
}

func (e *Error) Error() string { return e.Op + " object " + e.Key + ": " + describe(e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// bodyError is a failure to read the caller's bytes: not the store's fault.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read the bytes to upload: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// fail makes the *Error of an operation; nil stays nil, and an *Error from
// below is not wrapped again.
func (s *Store) fail(op, key string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &Error{Op: op, Key: key, Err: err, Hint: s.hint(err)}
}

// IsNotFound says whether there is no such object or no such version of it. A
// missing bucket is another matter, except that HEAD cannot tell them apart.
func IsNotFound(err error) bool {
	code, status := apiError(err)
	switch code {
	case "NoSuchKey", "NoSuchVersion", "NotFound":
		return true
	case "":
		return status == http.StatusNotFound
	}
	return false
}

// IsPermanent says whether trying again is useless until somebody changes the
// configuration, a permission or the store: 403, no such bucket, wrong
// credentials, a request that the store does not accept, ErrDifferent.
func IsPermanent(err error) bool {
	if errors.Is(err, ErrDifferent) || errors.Is(err, errInvalid) {
		return true
	}
	code, status := apiError(err)
	if code == "NoSuchUpload" || IsNotFound(err) || IsUnavailable(err) {
		return false
	}
	return status == http.StatusNotImplemented || (status >= 300 && status < 500)
}

// IsUnavailable says whether the store, or the way to it, is at fault: network,
// timeouts, overload, server errors, bytes damaged on their way up, no
// credentials for the moment, an open breaker. A context that the caller cancelled is not.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrDifferent) {
		return false
	}
	if isUnreadable(err) {
		return false
	}
	var open *OpenError
	if errors.Is(err, errVanished) || errors.As(err, &open) {
		return true
	}
	if code, status := apiError(err); status != 0 {
		switch {
		case damagedInFlight[code], code == "RequestTimeout", code == "SlowDown", code == "NoSuchUpload":
			return true
		case status == statusRequestTimeout, status == statusTooManyRequests, status == http.StatusConflict:
			return true
		case status >= 500 && status != http.StatusNotImplemented:
			return true
		case status >= 300:
			return false
		}
		// A good status with a failure after it: the answer could not be read.
	}
	var (
		network     net.Error
		unsent      *smithyhttp.RequestSendError
		late        *awshttp.ResponseTimeoutError
		credentials *credentialError
		unread      *smithy.DeserializationError
	)
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &network) || errors.As(err, &unsent) || errors.As(err, &late) ||
		errors.As(err, &credentials) || errors.As(err, &unread)
}

// apiError is the store's own error code and HTTP status; "" and 0 when the
// store did not answer. A HEAD has no body to carry a code: the SDK then makes
// one from the status, which says no more than the status does.
func apiError(err error) (code string, status int) {
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	return code, status
}

// describe is an error's text without what only the SDK's authors can use, of
// which it has several hundred characters.
func describe(err error) string {
	var operation *smithy.OperationError
	if !errors.As(err, &operation) {
		return err.Error()
	}
	var (
		short    string
		api      smithy.APIError
		response *awshttp.ResponseError
		unsent   *smithyhttp.RequestSendError
		last     *retry.MaxAttemptsError
	)
	switch {
	case errors.As(operation.Err, &api):
		short = api.ErrorCode()
		if api.ErrorMessage() != "" && api.ErrorMessage() != short {
			short += ": " + api.ErrorMessage()
		}
		if errors.As(operation.Err, &response) {
			short += fmt.Sprintf(" (status %d, request %s)", response.HTTPStatusCode(), response.ServiceRequestID())
		}
	case errors.As(operation.Err, &unsent):
		short = unsent.Err.Error()
		if located := (*url.Error)(nil); errors.As(unsent.Err, &located) {
			short = located.Err.Error() // the URL repeats the key
		}
	default:
		short = operation.Err.Error()
	}
	if errors.As(operation.Err, &last) && last.Attempt > 1 {
		short += fmt.Sprintf(", after %d attempts", last.Attempt)
	}
	return strings.Replace(err.Error(), operation.Error(), short, 1)
}

// hint is what the operator can do about an error.
func (s *Store) hint(err error) string {
	var credentials *credentialError
	if errors.As(err, &credentials) {
		return "set s3.access_key_id and s3.secret_access_key, or give the process AWS credentials (environment, profile or role)"
	}
	if errors.Is(err, ErrDifferent) {
		return "nothing was overwritten; look at both contents before you remove either"
	}
	code, status := apiError(err)
	switch code {
	case "NoSuchBucket":
		return fmt.Sprintf("there is no bucket %s: create it, or set s3.bucket", s.config.Bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "XAdminUserNotFound":
		return "check s3.access_key_id and s3.secret_access_key, or the AWS credentials in use"
	case "RequestTimeTooSkewed":
		return "set this machine's clock: it differs too much from the store's"
	case "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "MovedPermanently":
		return fmt.Sprintf("bucket %s is in another region: check s3.region and s3.endpoint", s.config.Bucket)
	case "InvalidObjectState":
		return "the object's storage class cannot be read at once: restore the object, and set s3.storage_class to one that can"
	case "InvalidStorageClass":
		return "check s3.storage_class"
	case "NotImplemented":
		return "the server lacks what was asked of it: check s3.sse and s3.storage_class"
	}
	switch {
	case status == http.StatusForbidden:
		return fmt.Sprintf("allow s3:PutObject and s3:GetObject on bucket %s; see configs/iam-policy.json", s.config.Bucket)
	case status >= 300 && status < 400:
		return "check s3.region and s3.endpoint"
	case status == 0 && IsUnavailable(err) && s.config.Endpoint != "":
		return fmt.Sprintf("check that %s can be reached from here, or set s3.endpoint", s.config.Endpoint)
	case status == 0 && IsUnavailable(err):
		return "check that AWS can be reached from here"
	}
	return ""
}
