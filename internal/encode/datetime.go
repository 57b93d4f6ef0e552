package encode

import (
	"fmt"
	"math"
	"strconv"
)

const (
	microsPerSecond = 1_000_000
	microsPerDay    = 86_400 * microsPerSecond
)

// appendTimestamp appends microseconds since 2000-01-01 in the ISO form with a T, the
// zone right after the time and the era last, as row_to_json prints it. Go's time is
// not used: it knows no infinity and prints years beyond 9999 and before 1 otherwise.
func appendTimestamp(dst []byte, micros int64, zone string) []byte {
	switch micros {
	case math.MaxInt64:
		return append(dst, `"infinity"`...)
	case math.MinInt64:
		return append(dst, `"-infinity"`...)
	}
	day, ofDay := micros/microsPerDay, micros%microsPerDay
	if ofDay < 0 {
		day, ofDay = day-1, ofDay+microsPerDay
	}
	dst, bc := appendCivil(append(dst, '"'), day)
	dst = appendClock(append(dst, 'T'), ofDay)
	dst = append(dst, zone...)
	return appendEra(dst, bc)
}

// appendDate appends days since 2000-01-01.
func appendDate(dst []byte, days int32) []byte {
	switch days {
	case math.MaxInt32:
		return append(dst, `"infinity"`...)
	case math.MinInt32:
		return append(dst, `"-infinity"`...)
	}
	dst, bc := appendCivil(append(dst, '"'), int64(days))
	return appendEra(dst, bc)
}

// appendTime appends microseconds since midnight; 24:00:00 is a value of its own.
func appendTime(dst []byte, micros int64) ([]byte, error) {
	if micros < 0 || micros > microsPerDay {
		return dst, fmt.Errorf("%d microseconds are no time of day", micros)
	}
	dst = appendClock(append(dst, '"'), micros)
	return append(dst, '"'), nil
}

func appendEra(dst []byte, bc bool) []byte {
	if bc {
		dst = append(dst, " BC"...)
	}
	return append(dst, '"')
}

// appendCivil appends year-month-day of the proleptic Gregorian calendar and tells
// whether the year is before Christ. Years are counted from March, so that the leap
// day is the last of its year, in eras of 400 years, which all have 146,097 days.
func appendCivil(dst []byte, day int64) ([]byte, bool) {
	const eraDays = 146_097
	day -= 60 // from 2000-01-01 to 2000-03-01
	era := day / eraDays
	rest := day % eraDays
	if rest < 0 {
		era, rest = era-1, rest+eraDays
	}
	ofEra := uint32(rest)
	yearOfEra := (ofEra - ofEra/1460 + ofEra/36_524 - ofEra/146_096) / 365
	ofYear := ofEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	year := 2000 + 400*era + int64(yearOfEra)
	month := (5*ofYear + 2) / 153 // from March = 0; months of 153 days in five
	dayOfMonth := ofYear - (153*month+2)/5 + 1
	if month < 10 {
		month += 3
	} else {
		month -= 9
		year++
	}
	bc := year <= 0
	if bc {
		year = 1 - year // there is no year 0: the year before 1 is 1 BC
	}
	if year > 9999 {
		dst = strconv.AppendInt(dst, year, 10)
		return append(dst, '-', tens(month), ones(month), '-', tens(dayOfMonth), ones(dayOfMonth)), bc
	}
	century, ofCentury := uint32(year/100), uint32(year%100)
	return append(dst, tens(century), ones(century), tens(ofCentury), ones(ofCentury),
		'-', tens(month), ones(month), '-', tens(dayOfMonth), ones(dayOfMonth)), bc
}

// appendClock appends hh:mm:ss and, where there is one, the fraction without its
// trailing zeros.
func appendClock(dst []byte, micros int64) []byte {
	seconds, fraction := uint32(micros/microsPerSecond), uint32(micros%microsPerSecond)
	hour, minute, second := seconds/3600, seconds/60%60, seconds%60
	dst = append(dst, tens(hour), ones(hour), ':', tens(minute), ones(minute), ':', tens(second), ones(second))
	if fraction == 0 {
		return dst
	}
	a, b, c := fraction/10_000, fraction/100%100, fraction%100
	dst = append(dst, '.', tens(a), ones(a), tens(b), ones(b), tens(c), ones(c))
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

func tens(n uint32) byte { return byte('0' + n/10%10) }
func ones(n uint32) byte { return byte('0' + n%10) }
