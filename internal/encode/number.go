package encode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
)

// appendFloat8 appends the shortest decimal that reads back as f, in Postgres's choice
// of form: fixed from 1e-4 up to 1e15 (float4: 1e6), else scientific.
func appendFloat8(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case abs >= 1e-4 && abs < 1e15 || f == 0:
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	case abs < 1<<53: // tiny, and large ones without a gap between integers
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	case math.IsNaN(f) || math.IsInf(f, 0):
		return appendNotFinite(dst, f)
	}
	return appendShortest(dst, f, math.Float64bits(f)&(1<<52-1), 64)
}

func appendFloat4(dst []byte, f float32) []byte {
	abs := math.Abs(float64(f))
	switch {
	case abs == 0x1p-12:
		// The one float4 half-way between its two shortest decimals where Go rounds away
		// from even (0.00024414063).
		if f < 0 {
			dst = append(dst, '-')
		}
		return append(dst, "0.00024414062"...)
	case abs >= float64(float32(1e-4)) && abs < 1e6 || f == 0:
		return strconv.AppendFloat(dst, float64(f), 'f', -1, 32)
	case abs < 1<<21:
		return strconv.AppendFloat(dst, float64(f), 'e', -1, 32)
	case math.IsNaN(abs) || math.IsInf(abs, 0):
		return appendNotFinite(dst, float64(f))
	}
	return appendShortest(dst, float64(f), uint64(math.Float32bits(f)&(1<<23-1)), 32)
}

// appendNotFinite appends the values that JSON has no number for.
func appendNotFinite(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case f > 0:
		return append(dst, `"Infinity"`...)
	}
	return append(dst, `"-Infinity"`...)
}

// appendShortest appends a large float in scientific form with the digits that
// Postgres chooses. Both it and Go take the shortest decimal that reads back as f, but
// Go also takes one that lies exactly half-way to a neighbour where rounding to even
// brings it back, and Postgres does not. A decimal of at most 17 digits can lie exactly
// half-way only beyond 2^53 (float4: 9 digits, 2^22), and f must have an even fraction.
func appendShortest(dst []byte, f float64, fraction uint64, bitSize int) []byte {
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, bitSize)
	if fraction%2 == 1 {
		return dst
	}
	low, high := openInterval(math.Abs(f), fraction == 0, bitSize)
	for digits := countDigits(dst[start:]); ; digits++ {
		d, exp := splitDecimal(dst[start:])
		for range 2 { // below a power of two the gap is half as wide: the next one up may be in it
			if inside(d, exp, low, high) {
				return appendScientific(dst[:start], f < 0, d, exp)
			}
			d++
		}
		dst = strconv.AppendFloat(dst[:start], f, 'e', digits, bitSize)
	}
}

// scaleBits makes integers of floats with up to two fraction bits, and of the points
// half-way (for a power of two also a quarter of the way) to their neighbours.
const scaleBits = 4

// openInterval gives the two half-way points to the neighbours of f, which is at least
// 2^53 (float4: 2^21), times 2^scaleBits. Decimals strictly between them read back as f.
func openInterval(f float64, powerOfTwo bool, bitSize int) (low, high *big.Int) {
	mantissaBits := 53
	if bitSize == 32 {
		mantissaBits = 24
	}
	frac, exp := math.Frexp(f)
	m := int64(math.Ldexp(frac, mantissaBits)) // f = m * 2^(exp-mantissaBits)
	below := int64(2)
	if powerOfTwo { // the neighbour below is only half as far away as the one above
		below = 1
	}
	low, high = big.NewInt(4*m-below), big.NewInt(4*m+2)
	shift := uint(exp - mantissaBits + scaleBits - 2)
	return low.Lsh(low, shift), high.Lsh(high, shift)
}

// inside tells whether d * 10^exp is strictly between the scaled low and high.
func inside(d uint64, exp int, low, high *big.Int) bool {
	x := new(big.Int).SetUint64(d)
	x.Lsh(x, scaleBits)
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exp, -exp))), nil)
	if exp >= 0 {
		x.Mul(x, power)
		return x.Cmp(low) > 0 && x.Cmp(high) < 0
	}
	return x.Cmp(new(big.Int).Mul(low, power)) > 0 && x.Cmp(new(big.Int).Mul(high, power)) < 0
}

// countDigits counts the digits before the exponent.
func countDigits(s []byte) int {
	n := 0
	for _, c := range s {
		if c == 'e' {
			break
		}
		if c >= '0' && c <= '9' {
			n++
		}
	}
	return n
}

// splitDecimal reads what strconv wrote in the 'e' form: |s| = d * 10^exp.
func splitDecimal(s []byte) (d uint64, exp int) {
	fraction, seenPoint := 0, false
	for i, c := range s {
		switch {
		case c == '.':
			seenPoint = true
		case c == 'e':
			e, _ := strconv.Atoi(string(s[i+1:])) // written by strconv a moment ago
			return d, e - fraction
		case c >= '0' && c <= '9':
			d = d*10 + uint64(c-'0')
			if seenPoint {
				fraction++
			}
		}
	}
	return d, -fraction
}

func appendScientific(dst []byte, negative bool, d uint64, exp int) []byte {
	for d%10 == 0 {
		d, exp = d/10, exp+1
	}
	var b [20]byte
	digits := strconv.AppendUint(b[:0], d, 10)
	if negative {
		dst = append(dst, '-')
	}
	dst = append(dst, digits[0])
	if len(digits) > 1 {
		dst = append(dst, '.')
		dst = append(dst, digits[1:]...)
	}
	dst = append(dst, 'e', '+') // the caller's floats are all large
	exp += len(digits) - 1
	if exp < 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, int64(exp), 10)
}

// The sign field of a numeric's binary form.
const (
	numericPositive    = 0x0000
	numericNegative    = 0x4000
	numericNaN         = 0xC000
	numericInfinity    = 0xD000
	numericNegInfinity = 0xF000
)

// appendNumeric appends a numeric from its base-10000 digits: a count, the weight of
// the first digit as a power of 10000, a sign, the number of decimals to show (zeros
// at the end are part of the value's text), the digits.
func appendNumeric(dst, v []byte) ([]byte, error) {
	if len(v) < 8 || len(v) != 8+2*int(binary.BigEndian.Uint16(v)) {
		return dst, fmt.Errorf("not a numeric of %d bytes", len(v))
	}
	weight := int(int16(binary.BigEndian.Uint16(v[2:])))
	sign := binary.BigEndian.Uint16(v[4:])
	decimals := int(binary.BigEndian.Uint16(v[6:]))
	digits := v[8:]
	for i := 0; i < len(digits); i += 2 {
		if d := binary.BigEndian.Uint16(digits[i:]); d > 9999 {
			return dst, fmt.Errorf("numeric digit %d", d)
		}
	}
	switch sign {
	case numericNaN:
		return append(dst, `"NaN"`...), nil
	case numericInfinity:
		return append(dst, `"Infinity"`...), nil
	case numericNegInfinity:
		return append(dst, `"-Infinity"`...), nil
	case numericNegative:
		dst = append(dst, '-')
	case numericPositive:
	default:
		return dst, fmt.Errorf("numeric sign %#04x", sign)
	}
	digit := func(i int) uint16 { // digits that are not stored are zero, on both sides
		if i < 0 || 2*i >= len(digits) {
			return 0
		}
		return binary.BigEndian.Uint16(digits[2*i:])
	}
	switch {
	case weight < 0:
		dst = append(dst, '0')
	case weight > 0 && digit(0) == 0: // the server keeps none, and JSON allows none
		return dst, errors.New("numeric with leading zeros")
	default:
		dst = strconv.AppendUint(dst, uint64(digit(0)), 10)
		for i := 1; i <= weight; i++ {
			dst = append4(dst, digit(i))
		}
	}
	if decimals == 0 {
		return dst, nil
	}
	dst = append(dst, '.')
	end := len(dst) + decimals
	for i := weight + 1; len(dst) < end; i++ {
		dst = append4(dst, digit(i))
	}
	return dst[:end], nil
}

func append4(dst []byte, d uint16) []byte {
	return append(dst, byte('0'+d/1000), byte('0'+d/100%10), byte('0'+d/10%10), byte('0'+d%10))
}
