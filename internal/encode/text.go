package encode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// appendString appends s as a JSON string, escaped as the server's escape_json does:
// the quote, the backslash and everything below a space, and nothing else. Bytes from
// 0x7f upwards, U+2028 among them, stay as they are.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for {
		n := plainPrefix(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"')
		}
		dst = appendEscaped(dst, s[n])
		s = s[n+1:]
	}
}

// plainPrefix is the number of leading bytes that need no escape. It looks at eight
// bytes at a time: a byte under test is moved so that "special" means "subtracting
// borrows", and the borrow shows in its top bit. A borrow can spill into higher bytes
// only, so the lowest marked byte is always a true one.
func plainPrefix(s []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := binary.LittleEndian.Uint64(s[i:])
		quote := x ^ ones*'"'
		slash := x ^ ones*'\\'
		special := ((x-ones*' ')&^x | (quote-ones)&^quote | (slash-ones)&^slash) & tops
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return i
		}
	}
	return i
}

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendJSON appends JSON text that the server has checked. In valid JSON a raw line
// break is white space between tokens (inside a string it must be escaped), so a space
// in its place changes no value, and it would otherwise tear the line in two.
func appendJSON(dst, v []byte) []byte {
	start := len(dst)
	dst = append(dst, v...)
	if bytes.IndexByte(v, '\n') < 0 && bytes.IndexByte(v, '\r') < 0 {
		return dst
	}
	for i := start; i < len(dst); i++ {
		if dst[i] == '\n' || dst[i] == '\r' {
			dst[i] = ' '
		}
	}
	return dst
}

// appendBytea appends the hex form; its backslash is doubled by JSON.
func appendBytea(dst, v []byte) []byte {
	dst = append(dst, `"\\x`...)
	dst = hex.AppendEncode(dst, v)
	return append(dst, '"')
}
