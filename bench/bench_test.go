package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The values do not matter here, because the machine is busy with tests.
func TestEveryMeasurementHasFigures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quick.json")
	var table bytes.Buffer
	if err := bench(t.Context(), &table, t.Output(), options{quick: true, json: file}); err != nil {
		t.Fatal(err)
	}
	r, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}

	for _, m := range measurements {
		if !slices.ContainsFunc(r.Rows, func(row *row) bool { return row.Name == m.name }) {
			t.Errorf("%s has no figures", m.name)
		}
		if !strings.Contains(table.String(), m.name) {
			t.Errorf("%s is not in the table", m.name)
		}
	}

	for _, row := range r.Rows {
		for _, v := range append(row.Values, row.Median) {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Errorf("%s has %v %s", row.Name, v, row.Unit)
			}
		}
	}

	for _, target := range targets {
		if row := r.find(target.name, target.unit); row == nil || len(row.Targets) == 0 {
			t.Errorf("the target of %s for %s is held against nothing", target.name, target.unit)
		}
	}
}

// Without the instructions, which take minutes to count.
func TestCostsHaveAModel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quick.json")
	opts := options{quick: true, costs: true, json: file, only: regexp.MustCompile("^[^i]")}
	if err := bench(t.Context(), io.Discard, t.Output(), opts); err != nil {
		t.Fatal(err)
	}

	var model strings.Builder
	err := convert(file, &model, func(r *report, out io.Writer) error {
		r.add("instructions", []figure{{"read/item", 400}, {"encode/item", 400}})
		return r.model(out)
	})
	if err != nil || !strings.Contains(model.String(), "Raspberry") {
		t.Fatalf("error %v, and the model is\n%s", err, &model)
	}

	for _, m := range costs {
		if strings.Contains(m.name, "/") && !strings.Contains(model.String(), "| `"+m.name+"`") {
			t.Errorf("the model lacks %s", m.name)
		}
	}
}

func TestThereIsNoModelOfAPart(t *testing.T) {
	var model strings.Builder
	r := &report{}
	r.add("256B/1", []figure{{"edged-µs", 1}})
	if err := r.model(&model); err != nil || !strings.Contains(model.String(), "| `256B/1`") || strings.Contains(model.String(), "NaN") {
		t.Errorf("error %v, and the model is\n%s", err, &model)
	}
}

func TestALineGoesThroughTwoPoints(t *testing.T) {
	l := through(2, 10, 4, 16)
	if l.of(2) != 10 || l.of(4) != 16 || l.of(0) != 4 {
		t.Errorf("%+v", l)
	}
}

func TestThePartsAreThoseOfTheCorners(t *testing.T) {
	want := part{item: line{1, 0.5}, delivery: line{3, 0.25}}
	r := &report{}
	for name, at := range map[string][2]float64{"64B/1": {64, 1}, "1KiB/1": {1024, 1}, "64B/10": {64, 10}, "1KiB/10": {1024, 10}} {
		r.add(name, []figure{{"edged-µs", want.of(at[0], at[1])}})
	}
	if got := r.fit("edged-µs"); math.Abs(got.of(256, 100)-want.of(256, 100)) > 1e-6 || math.Abs(got.item.by-0.5) > 1e-6 {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestMeasurementsThatTargetsCompareExist(t *testing.T) {
	measured := func(name string) bool {
		return slices.ContainsFunc(measurements, func(m measurement) bool { return m.name == name })
	}
	for _, target := range targets {
		if !measured(target.name) || target.against != "" && !measured(target.against) {
			t.Errorf("a target compares %q with %q, and one of them is not measured", target.name, target.against)
		}
		if (target.atLeast == 0) == (target.atMost == 0) {
			t.Errorf("the target of %s for %s has no bound, or two", target.name, target.unit)
		}
	}
}

func TestTheMedianIsTheMiddleOne(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{7}, 7}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("the median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestATargetIsMetOrMissed(t *testing.T) {
	for _, c := range []struct {
		target target
		want   bool
	}{
		{target{against: "other", atLeast: 2}, true},
		{target{against: "other", atLeast: 2.1}, false},
		{target{against: "other", atLeast: 2.1, enough: 200}, true},
		{target{against: "other", atLeast: 2.1, enough: 201}, false},
		{target{against: "other", atMost: 2}, true},
		{target{against: "other", atMost: 1.9}, false},
		{target{atLeast: 201}, false},
		{target{atMost: 200}, true},
		{target{atMost: 199}, false},
	} {
		r := &report{}
		r.add("edged", []figure{{"x", 200}})
		r.add("other", []figure{{"x", 100}})
		c.target.name, c.target.unit = "edged", "x"
		r.judge([]target{c.target})
		if v := r.Rows[0].Targets; len(v) != 1 || v[0].Met != c.want {
			t.Errorf("%+v: %+v, want met %v", c.target, v, c.want)
		}
	}
}

func TestATargetWithoutItsOtherSideIsLeftOut(t *testing.T) {
	r := &report{}
	r.add("edged", []figure{{"x", 200}})
	r.judge([]target{{name: "edged", unit: "x", against: "other", atLeast: 1}, {name: "another", unit: "x", atMost: 1}})
	if len(r.Rows[0].Targets) != 0 {
		t.Errorf("%+v", r.Rows[0].Targets)
	}
}

func TestBenchfmtHasALineForEachRound(t *testing.T) {
	r := &report{Machine: machine{CPU: "Z80"}}
	r.add("fan-out/10/edged", []figure{{"msgs/s", 1.5e6}, {"peak-MiB", 12.25}})
	r.add("fan-out/10/edged", []figure{{"msgs/s", 2e6}, {"peak-MiB", 12}})
	var out bytes.Buffer
	if err := r.benchfmt(&out); err != nil {
		t.Fatal(err)
	}
	want := "cpu: Z80\n" +
		"BenchmarkFan-out/10/edged 1 1.5e+06 msgs/s\nBenchmarkFan-out/10/edged 1 2e+06 msgs/s\n" +
		"BenchmarkFan-out/10/edged 1 12.25 peak-MiB\nBenchmarkFan-out/10/edged 1 12 peak-MiB\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestTheClientCountsMessagesHoweverTheyAreCut(t *testing.T) {
	var stream []byte
	for i := range 20 {
		stream = fmt.Appendf(stream, "MSG events 1 5\r\nMSG \n\r\nPING\r\nMSG readings 2 _INBOX.%d 3\r\nabc\r\nPONG\r\nMSG events 1 0\r\n\r\n", i)
	}

	stream = append(stream, "INFO {\"ldm\":true}\r\n"...)
	for size := 1; size <= len(stream); size++ {
		c := &client{}
		var buf []byte
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			buf = append(buf, rest[:n]...)
			rest = rest[n:]
			left, err := c.consume(buf)
			if err != nil {
				t.Fatalf("cut by %d: %v", size, err)
			}
			buf = buf[:copy(buf, left)]
		}
		if c.got != 60 || c.pongs != 20 || !c.leave || string(c.out) != strings.Repeat("PONG\r\n", 20) {
			t.Fatalf("cut by %d: %d messages, %d pongs, leave %v, answers %q", size, c.got, c.pongs, c.leave, c.out)
		}
	}
}

func TestTheClientAcknowledgesEachMessageOnce(t *testing.T) {
	c := &client{acknowledges: true}
	if _, err := c.consume([]byte("MSG events 1 $JS.ACK.a 2\r\nxx\r\nMSG events 1 $JS.ACK.b 2\r\nx")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.consume([]byte("x\r\n")); err != nil {
		t.Fatal(err)
	}
	if c.got != 2 || string(c.out) != "PUB $JS.ACK.a 0\r\n\r\nPUB $JS.ACK.b 0\r\n\r\n" {
		t.Errorf("%d messages, %q", c.got, c.out)
	}
}

func TestTheClientHandsOverWholePayloads(t *testing.T) {
	var got []string
	c := &client{message: func(item []byte) { got = append(got, string(item)) }}
	rest, err := c.consume([]byte("MSG events 1 2\r\nab\r\nMSG events 1 4\r\nab"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.consume(append(bytes.Clone(rest), "cd\r\n"...)); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != "ab abcd" || c.got != 2 {
		t.Errorf("got %q, counted %d", got, c.got)
	}
}

func TestTheClientRefusesMalformedMessages(t *testing.T) {
	for _, line := range []string{"-ERR 'Slow Consumer'\r\n", "MSG a 1 x\r\n", "MSG a 1 -5\r\n", "MSG \r\n", "HTTP/1.1 400\r\n"} {
		if _, err := new(client).consume([]byte(line)); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

// BenchmarkConsume measures the client's cost of a message, which should be small compared with the
// server's.
func BenchmarkConsume(b *testing.B) {
	const messages = 1000
	stream := bytes.Repeat([]byte("MSG events 1 256\r\n"+strings.Repeat("x", itemSize)+"\r\n"), messages)
	c := &client{}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%messages != 0 {
			continue
		}
		if rest, err := c.consume(stream); err != nil || len(rest) > 0 {
			b.Fatal(err)
		}
	}
}

func TestAWireDelaysWhatItCarries(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // an echo
		conn, err := listener.Accept()
		if err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	w, err := newWire(listener.Addr().String(), far.delay, far.rate)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	conn, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	begin := time.Now()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 2*far.delay {
		t.Errorf("a byte and its echo took %v over a wire of %v each way", took, far.delay)
	}
}
