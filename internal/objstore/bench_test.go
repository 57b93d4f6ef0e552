package objstore

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// BenchmarkPut and BenchmarkGet include the server, which shares the machine.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1 * mib, 64 * mib} {
		b.Run(fmt.Sprintf("%dMiB", size/mib), func(b *testing.B) {
			s := open(b, newConfig(b, false))
			content := noise(1, size)
			blob := blobOf(content)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				if _, err := s.Put(b.Context(), fmt.Sprintf("k%d", i), bytes.NewReader(content), blob); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{1 * mib, 64 * mib} {
		b.Run(fmt.Sprintf("%dMiB", size/mib), func(b *testing.B) {
			s := open(b, newConfig(b, false))
			put(b, s, "k", noise(1, size))
			b.SetBytes(int64(size))
			for b.Loop() {
				body, _, err := s.Get(b.Context(), "k", "")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, body); err != nil {
					b.Fatal(err)
				}
				_ = body.Close()
			}
		})
	}
}
