package encode

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// The address families of the server's own numbering (2 is AF_INET everywhere).
const (
	familyIPv4 = 2
	familyIPv6 = 3
)

// appendInet appends an inet or cidr value: family, prefix length, a flag, the length
// of the address, the address. The prefix length is printed where it says something:
// always for cidr, for inet only if it is not the whole address.
func appendInet(dst, v []byte, cidr bool) ([]byte, error) {
	if len(v) < 4 || len(v) != 4+int(v[3]) {
		return dst, fmt.Errorf("not an address of %d bytes", len(v))
	}
	family, prefix, addr := v[0], v[1], v[4:]
	full := byte(32)
	dst = append(dst, '"')
	switch {
	case family == familyIPv4 && len(addr) == 4:
		dst = appendIPv4(dst, addr)
	case family == familyIPv6 && len(addr) == 16:
		full = 128
		dst = appendIPv6(dst, addr)
	default:
		return dst, fmt.Errorf("address family %d with %d bytes", family, len(addr))
	}
	if prefix > full {
		return dst, fmt.Errorf("prefix length %d", prefix)
	}
	if cidr || prefix != full {
		dst = append(dst, '/')
		dst = strconv.AppendUint(dst, uint64(prefix), 10)
	}
	return append(dst, '"'), nil
}

func appendIPv4(dst, addr []byte) []byte {
	for i, b := range addr {
		if i > 0 {
			dst = append(dst, '.')
		}
		n := uint32(b)
		if n >= 100 {
			dst = append(dst, '0'+b/100)
		}
		if n >= 10 {
			dst = append(dst, tens(n))
		}
		dst = append(dst, ones(n))
	}
	return dst
}

// appendIPv6 shortens as the server's inet_net_ntop does, which is not what
// net/netip prints: the first longest run of two or more zero groups becomes "::", and
// the last 32 bits are dotted after six zero groups (but not seven) or after ::ffff.
func appendIPv6(dst, addr []byte) []byte {
	var groups [8]uint16
	runStart, runLen := -1, 1
	for i, here := 0, 0; i < len(groups); i++ {
		groups[i] = binary.BigEndian.Uint16(addr[2*i:])
		if groups[i] != 0 {
			here = 0
			continue
		}
		if here++; here > runLen {
			runStart, runLen = i-here+1, here
		}
	}
	for i := 0; i < len(groups); i++ {
		if i == runStart {
			dst = append(dst, ':')
			if runStart+runLen == len(groups) {
				return append(dst, ':')
			}
			i += runLen
		}
		if i > 0 {
			dst = append(dst, ':')
		}
		if i == 6 && runStart == 0 && (runLen == 6 || runLen == 5 && groups[5] == 0xffff) {
			return appendIPv4(dst, addr[12:])
		}
		dst = strconv.AppendUint(dst, uint64(groups[i]), 16)
	}
	return dst
}
