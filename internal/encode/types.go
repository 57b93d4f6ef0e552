package encode

// Type says how the binary form of a field becomes a JSON value.
type Type uint8

// The types with a fast path, and TypeRawJSON for all others. The zero Type is
// invalid, so that a forgotten one is an error and not a wrong value.
const (
	TypeBool        Type = iota + 1
	TypeInt2             // smallint
	TypeInt4             // integer
	TypeInt8             // bigint
	TypeFloat4           // real; NaN and infinities become strings
	TypeFloat8           // double precision; likewise
	TypeNumeric          // every digit is kept; NaN and infinities become strings
	TypeText             // text, varchar, bpchar, name; right for labels of enums too
	TypeUUID             //
	TypeTimestamp        // timestamp without time zone
	TypeTimestamptz      // timestamp with time zone, printed in UTC
	TypeDate             //
	TypeTime             // time without time zone
	TypeJSON             // the text as it was stored, line breaks become spaces
	TypeJSONB            // the server's text of it
	TypeBytea            // hex with the \x prefix
	TypeInet             //
	TypeCIDR             //
	TypeOID              // a string, as row_to_json has it
	TypeRawJSON          // the field is JSON text already: to_json(column), made by the server
	typeEnd
)

// TypeFor gives the fast path of a built-in type by its OID; a domain has that of its
// base type. False means that the caller must select to_json(column) instead and
// declare the column as TypeRawJSON.
func TypeFor(oid uint32) (Type, bool) {
	switch oid {
	case 16:
		return TypeBool, true
	case 17:
		return TypeBytea, true
	case 19, 25, 1042, 1043: // name, text, bpchar, varchar
		return TypeText, true
	case 20:
		return TypeInt8, true
	case 21:
		return TypeInt2, true
	case 23:
		return TypeInt4, true
	case 26:
		return TypeOID, true
	case 114:
		return TypeJSON, true
	case 650:
		return TypeCIDR, true
	case 700:
		return TypeFloat4, true
	case 701:
		return TypeFloat8, true
	case 869:
		return TypeInet, true
	case 1082:
		return TypeDate, true
	case 1083:
		return TypeTime, true
	case 1114:
		return TypeTimestamp, true
	case 1184:
		return TypeTimestamptz, true
	case 1700:
		return TypeNumeric, true
	case 2950:
		return TypeUUID, true
	case 3802:
		return TypeJSONB, true
	}
	return 0, false
}

// Column is one column of the archived table, in the order of the COPY's select list.
type Column struct {
	Name string
	Type Type

	// OmitNull leaves the key out of the line where the value is SQL NULL. It is meant
	// for json and jsonb, where a JSON null must stay apart from an SQL NULL.
	OmitNull bool
}
