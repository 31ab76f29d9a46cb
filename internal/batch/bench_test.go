package batch

import "testing"

func items(n int) *Memory {
	m := new(Memory)
	for range n {
		m.Add(make([]byte, 256))
	}
	return m
}

// BenchmarkBatch makes a batch of 500 items and looks at each.
func BenchmarkBatch(b *testing.B) {
	m := items(500)
	b.ReportAllocs()
	for b.Loop() {
		bt := New("events", 0, m)
		for i := range bt.Len() {
			if len(bt.Item(i)) != 256 {
				b.Fatal(i)
			}
		}
	}
}

// BenchmarkEncoded asks for an encoding that exists, as all clients but the first do.
func BenchmarkEncoded(b *testing.B) {
	bt := New("events", 0, new(Memory))
	encode := func(*Batch) *Encoding { return &Encoding{} }
	bt.Encoded("1", encode)
	b.ReportAllocs()
	for b.Loop() {
		bt.Encoded("1", encode)
	}
}

func TestABatchCostsNoAllocationAnItemOrAClient(t *testing.T) {
	m := items(500)
	bt := New("events", 0, m)
	encode := func(*Batch) *Encoding { return &Encoding{} }
	bt.Encoded("1", encode)
	allocs := testing.AllocsPerRun(100, func() {
		for i := range bt.Len() {
			bt.Item(i)
		}
		bt.Encoded("1", encode)
	})
	if allocs != 0 {
		t.Errorf("%v allocations for what exists already", allocs)
	}
}
