package encode

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

const zstdMagic = "\x28\xb5\x2f\xfd"

// frameReader passes one zstd frame through and then insists on the end of the input.
// The decoder alone would read on: it takes an empty input for an empty file and
// accepts further frames, so rows could be lost or added without an error.
type frameReader struct {
	in       *bufio.Reader
	part     framePart
	left     int // bytes of the part that are still to be passed through
	checksum int // length of the checksum behind the last block
	err      error
}

// zstdReader gives the frame reader the last word: the decoder takes an end within the
// frame's first bytes for a proper one.
type zstdReader struct {
	z     *zstd.Decoder
	frame *frameReader
}

func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.z.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) && z.frame.err == nil {
		if more, _ := z.frame.Read(make([]byte, 1)); more > 0 {
			return n, errTrailing
		}
	}
	if z.frame.err != nil {
		err = z.frame.err
	}
	return n, err
}

func (z *zstdReader) Close() error {
	z.z.Close()
	return nil
}

type framePart uint8

const (
	frameStart framePart = iota
	frameBlock
	frameEnd
)

func (f *frameReader) Read(p []byte) (int, error) {
	if len(p) == 0 || f.err != nil {
		return 0, f.err
	}
	if f.left == 0 {
		if f.err = f.nextPart(); f.err != nil {
			return 0, f.err
		}
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // there is always a part to come before the end
	}
	f.err = err
	return n, err
}

// nextPart reads how long the next part of the frame is (RFC 8878, section 3.1.1).
func (f *frameReader) nextPart() error {
	switch f.part {
	case frameStart:
		h, err := f.peek(len(zstdMagic) + 1)
		if err != nil {
			return err
		}
		if string(h[:len(zstdMagic)]) != zstdMagic {
			return errors.New("not a zstd frame")
		}
		descriptor := h[len(zstdMagic)]
		single := descriptor >> 5 & 1
		contentSize := [4]int{int(single), 2, 4, 8}[descriptor>>6]
		dictionary := [4]int{0, 1, 2, 4}[descriptor&3]
		f.left = len(h) + int(1-single) + dictionary + contentSize
		f.checksum = int(descriptor>>2&1) * 4
		f.part = frameBlock
	case frameBlock:
		h, err := f.peek(3)
		if err != nil {
			return err
		}
		header := int(h[0]) | int(h[1])<<8 | int(h[2])<<16
		body := header >> 3
		switch kind := header >> 1 & 3; kind {
		case 0, 2: // raw, compressed
		case 1: // one byte, repeated
			body = 1
		default:
			return fmt.Errorf("zstd block of kind %d", kind)
		}
		f.left = len(h) + body
		if header&1 == 1 {
			f.left += f.checksum
			f.part = frameEnd
		}
	case frameEnd:
		return atEOF(f.in)
	}
	return nil
}

func (f *frameReader) peek(n int) ([]byte, error) {
	b, err := f.in.Peek(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
