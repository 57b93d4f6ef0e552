package encode_test

import (
	"encoding/binary"
	"math"

	"github.com/audit-table-archiver/archiver/internal/encode"
)

const streamHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// stream builds binary COPY data.
type stream []byte

func newStream() stream { return stream(streamHeader) }

// row appends a tuple: tableoid 16384, ctid (n,1), xmin 900, and the fields; nil is NULL.
func (s stream) row(n int, fields ...[]byte) stream {
	lead := [][]byte{be32(16384), append(be32(uint32(n)), 0, 1), be32(900)}
	s = binary.BigEndian.AppendUint16(s, uint16(len(lead)+len(fields)))
	for _, f := range append(lead, fields...) {
		if f == nil {
			s = binary.BigEndian.AppendUint32(s, math.MaxUint32)
			continue
		}
		s = binary.BigEndian.AppendUint32(s, uint32(len(f)))
		s = append(s, f...)
	}
	return s
}

func (s stream) end() stream { return append(s, 0xff, 0xff) }

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v int64) []byte  { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// auditColumns and auditRow are an audit table of the usual kind, about 450 bytes a line.
func auditColumns() []encode.Column {
	return []encode.Column{
		{Name: "id", Type: encode.TypeInt8},
		{Name: "created_at", Type: encode.TypeTimestamptz},
		{Name: "actor_id", Type: encode.TypeUUID},
		{Name: "actor", Type: encode.TypeText},
		{Name: "action", Type: encode.TypeText},
		{Name: "entity_type", Type: encode.TypeText},
		{Name: "entity_id", Type: encode.TypeInt8},
		{Name: "ip_address", Type: encode.TypeInet},
		{Name: "success", Type: encode.TypeBool},
		{Name: "amount", Type: encode.TypeNumeric},
		{Name: "comment", Type: encode.TypeText},
		{Name: "payload", Type: encode.TypeJSONB, OmitNull: true},
	}
}

func auditRow(s stream, n int) stream {
	mix := uint64(n) * 0x9E3779B97F4A7C15
	hex := func(bits uint64, digits int) string {
		b := make([]byte, digits)
		for i := range b {
			b[i] = "0123456789abcdef"[bits>>(4*i)&15]
		}
		return string(b)
	}
	actions := []string{"user.login", "order.update", "invoice.create", "user.logout", "permission.grant"}
	payload := "\x01" + `{"request_id": "` + hex(mix, 16) + `", "user_agent": "Mozilla/5.0 (X11; Linux x86_64)", "changes": {"status": ["pending", "` +
		actions[mix>>7%5] + `"], "total": [` + hex(mix>>20&0x7777, 4) + `, 118.40]}}`
	return s.row(n, be64(int64(n)), be64(757382400_000_000+int64(n)*1_371_113), append(be64(int64(mix)), be64(int64(mix>>3))...),
		[]byte("user"+hex(mix>>9, 3)+"@example.com"), []byte(actions[mix%5]), []byte("order"), be64(int64(mix>>44)),
		[]byte{2, 32, 0, 4, 10, byte(mix), byte(mix >> 8), 7}, []byte{1}, append(be64(int64(3<<48|1<<32|2)), 0, 1, 0x04, 0xd2, 0x0d, 0x80),
		nil, []byte(payload))
}
