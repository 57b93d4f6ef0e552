package encode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
)

const hexDigits = "0123456789abcdef"

// appendValue appends the JSON value of one field that is not NULL. An error means
// that the bytes cannot be a value of that type; dst then holds nothing of use.
func appendValue(dst []byte, typ Type, v []byte) ([]byte, error) {
	if want := fixedLen(typ); want != 0 && len(v) != want {
		return dst, fmt.Errorf("%d bytes, want %d", len(v), want)
	}
	switch typ {
	case TypeText:
		return appendString(dst, v), nil
	case TypeInt8:
		return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(v)), 10), nil
	case TypeInt4:
		return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(v))), 10), nil
	case TypeInt2:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(v))), 10), nil
	case TypeTimestamptz:
		return appendTimestamp(dst, int64(binary.BigEndian.Uint64(v)), "+00:00"), nil
	case TypeTimestamp:
		return appendTimestamp(dst, int64(binary.BigEndian.Uint64(v)), ""), nil
	case TypeDate:
		return appendDate(dst, int32(binary.BigEndian.Uint32(v))), nil
	case TypeTime:
		return appendTime(dst, int64(binary.BigEndian.Uint64(v)))
	case TypeUUID:
		return appendUUID(dst, v), nil
	case TypeJSONB:
		if len(v) < 2 || v[0] != 1 {
			return dst, errors.New("not a jsonb value of version 1")
		}
		if bytes.IndexByte(v, '\n') >= 0 { // the server prints jsonb on one line
			return dst, errors.New("line break in a jsonb value")
		}
		return append(dst, v[1:]...), nil
	case TypeJSON, TypeRawJSON:
		if len(v) == 0 {
			return dst, errors.New("empty json value")
		}
		return appendJSON(dst, v), nil
	case TypeBool:
		if v[0] != 0 {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case TypeNumeric:
		return appendNumeric(dst, v)
	case TypeFloat8:
		return appendFloat8(dst, math.Float64frombits(binary.BigEndian.Uint64(v))), nil
	case TypeFloat4:
		return appendFloat4(dst, math.Float32frombits(binary.BigEndian.Uint32(v))), nil
	case TypeInet, TypeCIDR:
		return appendInet(dst, v, typ == TypeCIDR)
	case TypeBytea:
		return appendBytea(dst, v), nil
	case TypeOID:
		dst = append(dst, '"')
		dst = strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(v)), 10)
		return append(dst, '"'), nil
	case typeEnd:
	}
	return dst, fmt.Errorf("unknown type %d", typ)
}

// fixedLen is the length in bytes of a type's binary form, 0 where it varies.
func fixedLen(typ Type) int {
	switch typ {
	case TypeBool:
		return 1
	case TypeInt2:
		return 2
	case TypeInt4, TypeFloat4, TypeDate, TypeOID:
		return 4
	case TypeInt8, TypeFloat8, TypeTimestamp, TypeTimestamptz, TypeTime:
		return 8
	case TypeUUID:
		return 16
	case TypeNumeric, TypeText, TypeJSON, TypeJSONB, TypeBytea, TypeInet, TypeCIDR, TypeRawJSON, typeEnd:
	}
	return 0
}

func appendUUID(dst, v []byte) []byte {
	b := [38]byte{0: '"', 9: '-', 14: '-', 19: '-', 24: '-', 37: '"'}
	hex.Encode(b[1:], v[:4])
	hex.Encode(b[10:], v[4:6])
	hex.Encode(b[15:], v[6:8])
	hex.Encode(b[20:], v[8:10])
	hex.Encode(b[25:], v[10:16])
	return append(dst, b[:]...)
}
