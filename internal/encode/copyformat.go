package encode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrTruncated means that the stream ended before its trailer: rows may be missing.
var ErrTruncated = errors.New("copy stream ended before its trailer")

const (
	copySignature = "PGCOPY\n\xff\r\n\x00"
	copyHeaderLen = len(copySignature) + 4 + 4 // flags, length of the extension
	maxFieldLen   = 1 << 30                    // the server cannot make a larger one
)

// found is what framer.next saw at the start of its input.
type found uint8

const (
	foundNothing found = iota // more bytes are needed
	foundOther                // header, extension or trailer: to be passed over
	foundTuple                // one whole tuple; its fields are in framer.fields
)

// framer cuts a binary COPY stream into tuples. It owns no bytes: the caller keeps
// what is not consumed and offers it again with more behind it. What has been looked
// at of a tuple is remembered, so that tiny pieces cost no repeated work.
type framer struct {
	names   []string // of the fields, for messages
	fields  []field  // of the tuple found last
	state   framerState
	skip    uint32 // bytes of the header's extension that are still to come
	pos     int    // bytes looked at of the tuple that is being framed
	current int    // fields framed of it
}

// field is a place within a tuple; length -1 is NULL.
type field struct{ start, length int }

type framerState uint8

const (
	atHeader framerState = iota
	atExtension
	atTuple
	atEnd
)

func newFramer(names []string) framer {
	return framer{names: names, fields: make([]field, len(names))}
}

// next looks at the start of data and returns how many bytes what it found takes.
func (f *framer) next(data []byte) (int, found, error) {
	switch f.state {
	case atHeader:
		return f.header(data)
	case atExtension:
		n := min(uint32(min(len(data), maxFieldLen)), f.skip)
		if f.skip -= n; f.skip == 0 {
			f.state = atTuple
		}
		if n == 0 && f.skip > 0 {
			return 0, foundNothing, nil
		}
		return int(n), foundOther, nil
	case atTuple:
		return f.tuple(data)
	case atEnd:
	}
	if len(data) > 0 {
		return 0, foundNothing, errors.New("bytes after the copy trailer")
	}
	return 0, foundNothing, nil
}

func (f *framer) header(data []byte) (int, found, error) {
	n := min(len(data), len(copySignature))
	if !bytes.Equal(data[:n], []byte(copySignature[:n])) {
		return 0, foundNothing, errors.New("not a binary copy stream")
	}
	if len(data) < copyHeaderLen {
		return 0, foundNothing, nil
	}
	if flags := binary.BigEndian.Uint32(data[n:]); flags>>16 != 0 {
		return 0, foundNothing, fmt.Errorf("copy header has unknown critical flags %#x", flags)
	}
	f.skip = binary.BigEndian.Uint32(data[n+4:])
	f.state = atExtension
	return copyHeaderLen, foundOther, nil
}

func (f *framer) tuple(data []byte) (int, found, error) {
	if f.pos == 0 {
		if len(data) < 2 {
			return 0, foundNothing, nil
		}
		switch count := int(int16(binary.BigEndian.Uint16(data))); count {
		case len(f.fields):
		case -1:
			f.state = atEnd
			return 2, foundOther, nil
		default:
			return 0, foundNothing, fmt.Errorf("%d fields, want %d", count, len(f.fields))
		}
		f.pos, f.current = 2, 0
	}
	pos, current := f.pos, f.current
	for ; current < len(f.fields); current++ {
		if len(data)-pos < 4 {
			break
		}
		length := int(int32(binary.BigEndian.Uint32(data[pos:])))
		if length < -1 || length > maxFieldLen {
			return 0, foundNothing, fmt.Errorf("column %q: field length %d", f.names[current], length)
		}
		if len(data)-pos-4 < length {
			break
		}
		f.fields[current] = field{pos + 4, length}
		pos += 4 + max(length, 0)
	}
	if current < len(f.fields) {
		f.pos, f.current = pos, current
		return 0, foundNothing, nil
	}
	f.pos = 0
	return pos, foundTuple, nil
}
