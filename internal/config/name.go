package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Postgres cuts longer names off without an error, and then two names may mean
// the same table.
const maxIdentifierBytes = 63

// ParseTableName reads a table's name as SQL reads it: [schema.]table, parts in
// double quotes where they need them, unquoted parts folded to lower case, no
// schema means public. It returns the plain names of the catalog.
func ParseTableName(s string) (schema, table string, err error) {
	first, rest, err := cutIdentifier(s)
	if err != nil {
		return "", "", err
	}
	if rest == "" {
		return "public", first, nil
	}
	if rest[0] != '.' {
		return "", "", errors.New("has text after the name; write schema.table, and put a part with special characters in double quotes")
	}
	second, rest, err := cutIdentifier(rest[1:])
	if err != nil {
		return "", "", err
	}
	if rest != "" {
		return "", "", errors.New("has more than two parts; write schema.table")
	}
	return first, second, nil
}

// parseIdentifier reads a single name, such as a column's, as SQL reads it.
func parseIdentifier(s string) (string, error) {
	name, rest, err := cutIdentifier(s)
	if err == nil && rest != "" {
		err = errors.New("is not a single name; put it in double quotes if it has special characters")
	}
	return name, err
}

// cutIdentifier reads one name from the start of s and returns what follows it.
func cutIdentifier(s string) (name, rest string, err error) {
	s = strings.Trim(s, " ")
	switch {
	case s == "":
		return "", "", errors.New("is an empty name")
	case !utf8.ValidString(s):
		return "", "", errors.New("is not valid UTF-8")
	case strings.ContainsRune(s, 0):
		return "", "", errors.New("contains a NUL, which no name can")
	case s[0] == '"':
		name, rest, err = cutQuoted(s[1:])
	default:
		end := strings.IndexFunc(s, func(c rune) bool { return !isIdentifierRune(c) })
		if end < 0 {
			end = len(s)
		}
		if end == 0 || (s[0] >= '0' && s[0] <= '9') || s[0] == '$' {
			return "", "", errors.New("is not a name in SQL without double quotes")
		}
		name, rest = foldASCII(s[:end]), s[end:]
	}
	if err != nil {
		return "", "", err
	}
	if len(name) > maxIdentifierBytes {
		return "", "", fmt.Errorf("is a name of %d bytes; Postgres keeps %d", len(name), maxIdentifierBytes)
	}
	return name, strings.Trim(rest, " "), nil
}

func cutQuoted(s string) (name, rest string, err error) {
	var b strings.Builder
	for {
		part, after, closed := strings.Cut(s, `"`)
		if !closed {
			return "", "", errors.New("has a double quote that is not closed")
		}
		b.WriteString(part)
		if !strings.HasPrefix(after, `"`) {
			if b.Len() == 0 {
				return "", "", errors.New("is an empty name")
			}
			return b.String(), after, nil
		}
		b.WriteByte('"')
		s = after[1:]
	}
}

func isIdentifierRune(c rune) bool {
	return c == '_' || c == '$' || c >= utf8.RuneSelf || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
}

// foldASCII folds A-Z only: that is what the server does in UTF-8 databases.
func foldASCII(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + ('a' - 'A')
		}
		return c
	}, s)
}

// quoteName writes a catalog name so that cutIdentifier reads it back: in double
// quotes only where they are needed. It is for people and for configuration; SQL
// text is built by package source.
func quoteName(name string) string {
	if got, rest, err := cutIdentifier(name); err == nil && rest == "" && got == name {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
