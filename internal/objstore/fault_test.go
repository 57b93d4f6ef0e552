package objstore

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
)

var errReset = errors.New("connection reset by the test")

// lostAnswer carries the request out and loses the answer.
func lostAnswer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	answer, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	return nil, errors.Join(errReset, answer.Body.Close())
}

// unsent fails before anything reached the store.
func unsent(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, errReset
}

// answer replies in the store's place.
func answer(status int, code string) mishap {
	return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
		body := "<Error><Code>" + code + "</Code><Message>made up by the test</Message></Error>"
		return &http.Response{
			StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Content-Type": {"application/xml"}}, Request: r,
			ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
		}, nil
	}
}

// flippedRequest damages one bit of the body on its way to the store.
func flippedRequest(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_ = r.Body.Close()
	content[len(content)/2] ^= 1
	damaged := r.Clone(r.Context())
	damaged.Body = io.NopCloser(bytes.NewReader(content))
	return next.RoundTrip(damaged)
}

// changedAnswer lets change have the body of the answer.
func changedAnswer(change func([]byte) []byte) mishap {
	return func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(answer.Body)
		if err != nil {
			return nil, err
		}
		_ = answer.Body.Close()
		answer.Body = io.NopCloser(bytes.NewReader(change(content)))
		return answer, nil
	}
}

// withoutChecksum makes the store one that keeps no checksums.
func withoutChecksum(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	answer, err := next.RoundTrip(r)
	if err == nil {
		answer.Header.Del("X-Amz-Checksum-Crc64nvme")
		answer.Header.Del("X-Amz-Checksum-Type")
	}
	return answer, err
}

// answerOK is a store that takes a write whatever the condition in it says.
func answerOK(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Etag": {`"0"`}}, Request: r, Body: http.NoBody,
	}, nil
}
