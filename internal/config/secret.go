package config

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
)

const mask = "***"

// Secret is text that must not be printed: whatever verb, encoder or logger gets
// it shows ***, or nothing where it is empty.
type Secret string

// Reveal returns the text itself. Call it only where the text is used, never for
// a message.
func (s Secret) Reveal() string { return string(s) }

// String returns *** or "".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString is String: %#v shows no more than %v.
func (s Secret) GoString() string { return s.String() }

// Format is String for every verb: without it %x and %q of a struct that holds a
// secret would go past String.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON encodes String.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText encodes String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML encodes String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// Redact returns a connection URL for people: user, host, database and options
// stay, passwords become ***. Any other text becomes *** as a whole.
func Redact(s Secret) string {
	u, err := url.Parse(string(s))
	if err != nil || !isPostgresURL(string(s)) || isTorn(u) {
		return s.String()
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != nil {
		b.WriteString(url.User(u.User.Username()).String())
		if _, has := u.User.Password(); has {
			b.WriteString(":" + mask)
		}
		b.WriteString("@")
	}
	b.WriteString(u.Host + u.EscapedPath())
	if u.RawQuery != "" {
		b.WriteString("?" + redactQuery(u.RawQuery))
	}
	return b.String()
}

func redactQuery(raw string) string {
	pairs := strings.Split(raw, "&")
	for i, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil || isSecretName(plain) {
			pairs[i] = name + "=" + mask
		}
	}
	return strings.Join(pairs, "&")
}

func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"password", "passwd", "pwd", "secret", "token"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}
