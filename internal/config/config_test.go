package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const reference = "../../configs/edged.toml"

func TestReferenceFileIsEqualToTheDefaults(t *testing.T) {
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(reference, data)
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestReferenceFileHasEveryKeyOfTheSchema(t *testing.T) {
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	there := locate(uncommented(data))
	for _, key := range schema("", reflect.TypeFor[Config]()) {
		if there[key] == 0 {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestExampleInTheReferenceFileIsGoodAndShowsTheDefaults(t *testing.T) {
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(reference, []byte(uncommented(data)))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	example := newInbound()
	example.Subject, example.List = "setpoints", "setpoints"
	want.Inbound = []Inbound{example}
	hub := newUplink()
	hub.Name, hub.URL, hub.Lists = "hub", []string{"tls://hub.example:4222"}, []string{"events", "readings"}
	want.Uplinks = []Uplink{hub}
	want.TCP.Users = []User{{Name: "reader", PasswordFile: "reader-password"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// uncommented makes a part of the file of its examples: lines that have no
// space behind the number sign.
func uncommented(file []byte) string {
	return regexp.MustCompile(`(?m)^#([^ \n])`).ReplaceAllString(string(file), "$1")
}

// schema lists the path of every key; arrays of tables have one element.
func schema(path string, t reflect.Type) (keys []string) {
	for i, name := range keysOf(t) {
		key, field := join(path, name), t.Field(i).Type
		if field.Kind() == reflect.Slice && field.Elem().Kind() == reflect.Struct {
			key, field = Index(key, 0), field.Elem()
		}
		keys = append(keys, key)
		if field.Kind() == reflect.Struct {
			keys = append(keys, schema(key, field)...)
		}
	}
	return keys
}

func TestEveryWayToRedisIsTaken(t *testing.T) {
	for text, want := range map[string]Redis{
		`cluster = ["a:1", "[::1]:2"]`: {Cluster: []string{"a:1", "[::1]:2"}},
		`sentinel = {addresses = ["a:1"], master = "m", username = "u", password_file = "f"}`: {
			Sentinel: Sentinel{Addresses: []string{"a:1"}, Master: "m", Username: "u", PasswordFile: "f"},
		},
	} {
		got, err := Parse("x.toml", []byte("[redis]\n"+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got.Redis.Where() == Default().Redis.Where() || !slices.Equal(got.Redis.Cluster, want.Cluster) ||
			want.Sentinel.Addresses != nil && !reflect.DeepEqual(got.Redis.Sentinel, want.Sentinel) {
			t.Errorf("%s: got %+v", text, got.Redis)
		}
	}
}

func TestEmptyFileMeansTheDefaults(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "\ufeff# a byte order mark"} {
		got, err := Parse("x.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if want := Default(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

func TestEveryKeyOfAFileIsTaken(t *testing.T) {
	want := &Config{
		Instance: "box-7",
		Redis: Redis{
			Address: "redis:6379", Username: "edge", PasswordFile: "/etc/edged/password",
			DB: 3, Timeout: second, PollInterval: 2 * second, Lease: 5 * second,
			TLS:      ClientTLS{Enabled: true, CAFile: "/etc/edged/ca", CertFile: "cert", KeyFile: "key", ServerName: "redis.lan"},
			Sentinel: Sentinel{Master: "box"},
		},
		Lists: []List{
			{Key: "{a}:in", Subject: "a.in", Stream: "A", Ack: AckNone, TakeFrom: TakeRight, Keep: 1000, Class: 9, Dedup: "json:a.id", DedupItems: 100, MaxLag: 10 * minute, AckWait: 30 * second, MaxAckPending: 1000},
			{
				Key: "b", Subject: "b", Stream: "b", Ack: AckExplicit, TakeFrom: TakeLeft, DedupItems: 1,
				AckWait: minute, MaxDeliver: 5, Backoff: []Duration{millisecond, day}, MaxAckPending: 1,
			},
		},
		Inbound: []Inbound{
			{Subject: "a.*.set.>", List: "{a}:in", MaxLen: 5_000_000, TakeFrom: TakeRight, MsgIDWindow: second},
			{Subject: "c", List: "c", TakeFrom: TakeLeft},
		},
		Delivery: Delivery{
			BatchItems: 10, BatchBytes: 64000, WindowItems: 20, Memory: 2 * mib, ReceiptTimeout: minute, RejoinGrace: 2 * second, MaxAway: hour, MaxAwayItems: 7, Share: 3, InboundBuffer: 64 * kib,
		},
		TCP: TCP{
			Listen: ":4223", MaxConnections: 8, MaxPerAddress: 2, MaxSubscriptions: 9, MaxPayload: 2 * kib,
			MaxControlLine: kib, MaxPending: 3 * kib, Memory: 2 * mib, ConnectTimeout: second, PingInterval: minute + second, Services: true,
			TLS:  TLS{CertFile: "/a.pem", KeyFile: "b", CAFile: "c", First: true},
			Auth: Auth{TokenFile: "token"},
			Users: []User{
				{Name: "ann", Password: hash, Publish: Rules{Allow: []string{"a.*", ">"}}, Subscribe: Rules{Deny: []string{"$SRV.>", "*"}}},
				{Name: "bob", PasswordFile: "/bob", Durables: true},
			},
		},
		HTTP: HTTP{
			Listen: ":8222", MaxClients: 7, Hosts: []string{"box.lan"}, Origins: []string{"https://example.com"}, Profiles: true,
		},
		Control: Control{Socket: "/tmp/c.sock", StatusSocket: "/tmp/s.sock"},
		Drain:   Drain{Timeout: 0},
		Log:     Log{Level: "debug", Format: "json"},
	}
	var file bytes.Buffer
	if err := toml.NewEncoder(&file).Encode(want); err != nil {
		t.Fatal(err)
	}
	got, err := Parse("x.toml", file.Bytes())
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, &file)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\nfrom\n%s", got, want, &file)
	}
}

func TestListsOfAFileReplaceTheDefaultOnes(t *testing.T) {
	for _, text := range []string{
		"[[list]]\nkey = 'a'\n[[list]]\nkey = 'b'\nsubject = 'c'",
		"list = [{key = 'a'}, {key = 'b', subject = 'c'}]",
	} {
		got, err := Parse("x.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a, b := newList(), newList()
		a.Key, a.Subject, a.Stream = "a", "a", "a"
		b.Key, b.Subject, b.Stream = "b", "c", "b"
		want := []List{a, b}
		if !reflect.DeepEqual(got.Lists, want) {
			t.Errorf("%s: got %+v, want %+v", text, got.Lists, want)
		}
	}
}

func TestAListWithoutAStreamHasOneNamedAfterItsKey(t *testing.T) {
	for key, want := range map[string]string{"events": "events", `a.b*c>d/e\\f g`: "a_b_c_d_e_f_g", `a\tb`: "a_b", "{a}:in": "{a}:in"} {
		got, err := Parse("x.toml", fmt.Appendf(nil, "[[list]]\nkey = \"%s\"\nsubject = 's'", key))
		if err != nil {
			t.Fatal(err)
		}
		if stream := got.Lists[0].Stream; stream != want {
			t.Errorf("the stream of %s is %q, want %q", key, stream, want)
		}
	}

	got, err := Parse("x.toml", []byte("[[list]]\nkey = 'a.b'\nsubject = 's'\n[[list]]\nkey = 'a_b'\nsubject = 't'\n[[list]]\nkey = 'c'\nstream = 'D'"))
	if err != nil {
		t.Fatal(err)
	}
	if names := fmt.Sprint(got.Lists[0].Stream, " ", got.Lists[1].Stream, " ", got.Lists[2].Stream); names != "a_b a_b_ D" {
		t.Errorf("the streams are %s", names)
	}
}

func TestLoadPutsTheHostNameInPlaceOfNoInstance(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "edged.toml")
	for _, c := range []struct{ content, want string }{
		{`instance = ""`, host},
		{`instance = "box-7"`, "box-7"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got.Instance != c.want {
			t.Errorf("%s: got %q, want %q", c.content, got.Instance, c.want)
		}
	}
}

func TestLoadOfNoFileGivesTheDefaults(t *testing.T) {
	got, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Instance, want.origin = got.Instance, got.origin
	if got.Instance == "" || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v and an instance", got, want)
	}
}

func TestLoadOfAMissingFileIsAnErrorOfTheFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	_, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestErrorHasALineForEachProblem(t *testing.T) {
	err := &Error{File: "x.toml", Problems: []Problem{
		{Line: 3, Message: "bad syntax"},
		{Line: 4, Key: "tcp.listen", Message: "bad address"},
		{Key: "instance", Message: "no name"},
	}}
	want := "x.toml:3: bad syntax\nx.toml:4: tcp.listen: bad address\nx.toml: instance: no name"
	if got := err.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
