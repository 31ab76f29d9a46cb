package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// parseProblems parses a bad file and returns a line for each problem.
func parseProblems(t *testing.T, text string) []string {
	t.Helper()
	_, err := Parse("x.toml", []byte(text))
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("got error %v, want an *Error for\n%s", err, text)
	}
	return strings.Split(bad.Error(), "\n")
}

func TestAllProblemsOfAFileAreReportedInTheOrderOfItsLines(t *testing.T) {
	got := parseProblems(t, `colour = "red"
[tcp]
lisen = "127.0.0.1:4222"
max_payload = "lots"
max_connections = "many"
[log]
level = "loud"

[redis]
timeout = 3
lease = "1s"
`)
	want := []string{
		`x.toml:1: colour: there is no such key: remove it, or use one of instance, redis, list, inbound, uplink, delivery, tcp, http, control, drain, log`,
		`x.toml:3: tcp.lisen: there is no such key: did you mean listen?`,
		`x.toml:4: tcp.max_payload: "lots" is no size: write a whole number and a unit (B, KB, MB, GB, KiB, MiB, GiB), such as "1MiB"`,
		`x.toml:5: tcp.max_connections: this must be a whole number, not a string`,
		`x.toml:7: log.level: "loud" is none of debug, info, warn, error`,
		`x.toml:10: redis.timeout: this must be a duration such as "10s", not a whole number`,
		`x.toml:11: redis.lease: the lease (redis.lease = "1s") must be more than twice redis.poll_interval ("10s"): it would end between two renewals`,
	}
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("problem %d:\ngot  %s\nwant %s", i, g, w)
		}
	}
}

func TestImpossibleValuesAreRefused(t *testing.T) {
	long := strings.Repeat("x", 600)
	for _, c := range []struct{ file, want string }{
		{`instance = "a b"`, `1: instance: "a b" has a space`},
		{`instance = "a/b"`, `1: instance: "a/b" has a space, a slash`},
		{`instance = "` + long[:65] + `"`, `1: instance: `},
		{`redis.address = "localhost"`, `1: redis.address: "localhost" is no address (missing port in address): write host:port`},
		{`redis.address = ":6379"`, `1: redis.address: ":6379" is no address (no host)`},
		{`redis.address = "127.0.0.1:0"`, `from 1 to 65535`},
		{`redis.address = "redis://127.0.0.1:6379"`, `1: redis.address: an address has no redis://: write "127.0.0.1:6379"`},
		{`redis.address = "rediss://ann:hunter2@redis.lan/3"`, `1: redis.address: an address has no rediss://: write "redis.lan:6379", the user in redis.username, and the password in a file that redis.password_file names, and redis.db = 3, and redis.tls.enabled = true`},
		{`redis.address = "unix:/run/redis.sock"`, `1: redis.address: "unix:/run/redis.sock" has not three slashes after unix: write "unix:///run/redis.sock"`},
		{`redis.address = "unix://redis.sock"`, `1: redis.address: "unix://redis.sock" has not three slashes after unix: write "unix:///redis.sock"`},
		{`redis.address = "/run/redis.sock"`, `1: redis.address: "/run/redis.sock" is a path: write "unix:///run/redis.sock"`},
		{`redis.cluster = "a:1"`, `1: redis.cluster: this must be an array of strings such as ["a", "b"], not a string`},
		{"redis.cluster = ['a:1',\n'b']", `2: redis.cluster[2]: "b" is no address (missing port in address): write host:port`},
		{"redis.address = 'a:1'\nredis.cluster = ['a:1']", `1: redis.address: Redis is found by redis.cluster: remove this`},
		{"redis.cluster = ['a:1']\nredis.sentinel.addresses = ['a:1']", `2: redis.sentinel.addresses: Redis is found by redis.cluster already`},
		{"redis.cluster = ['a:1']\nredis.db = 1", `2: redis.db: a cluster has database 0 only`},
		{`redis.sentinel.master = ""`, `1: redis.sentinel.master: write the name`},
		{`redis.tls.enabled = "yes"`, `1: redis.tls.enabled: this must be true or false, not a string`},
		{`redis.tls.ca_file = "/ca"`, `1: redis.tls: this does nothing while TLS is off`},
		{"redis.tls.enabled = true\nredis.tls.key_file = '/k'", `redis.tls.cert_file: a client's certificate needs its key`},
		{"redis.address = 'unix:///s'\nredis.tls.enabled = true", `2: redis.tls.enabled: a Unix socket (redis.address = "unix:///s") has no TLS`},
		{`redis.db = -1`, `1: redis.db: this must be between 0 and`},
		{`redis.db = 99999999999999`, `1: redis.db: this must be between 0 and`},
		{`redis.timeout = "99ms"`, `1: redis.timeout: this must be between 100ms and 1m`},
		{`redis.timeout = "soon"`, `1: redis.timeout: "soon" is no duration`},
		{`redis.timeout = "15s"`, `1: redis.timeout: the lease (redis.lease = "30s") must be more than twice redis.timeout ("15s")`},
		{`redis.poll_interval = "6m"`, `1: redis.poll_interval: this must be between 100ms and 5m`},
		{`redis.lease = "11m"`, `1: redis.lease: this must be between 200ms and 10m`},
		{`delivery.batch_items = 0`, `1: delivery.batch_items: this must be between 1 and 100000`},
		{`delivery.batch_items = 5000`, `1: delivery.batch_items: the window (delivery.window_items = 4000) must hold a batch`},
		{`delivery.window_items = 499`, `1: delivery.window_items: the window`},
		{`delivery.batch_bytes = 1023`, `1: delivery.batch_bytes: this must be between 1KiB and 64MiB`},
		{`delivery.batch_bytes = -1`, `1: delivery.batch_bytes: this must be between`},
		{`delivery.memory = "99999999999GiB"`, `is more bytes than can be counted`},
		{`delivery.receipt_timeout = "2h"`, `1: delivery.receipt_timeout: this must be between 1s and 1h`},
		{`tcp.listen = "4222"`, `1: tcp.listen: "4222" is no address to listen on (missing port in address)`},
		{`tcp.listen = "127.0.0.1:nats"`, `the port must be a number from 0 to 65535`},
		{`tcp.max_connections_per_address = -1`, `1: tcp.max_connections_per_address: this must be between 0 and 1000000`},
		{`tcp.tls.cert_file = "a"`, `1: tcp.tls.cert_file: a certificate is no use without its key: set key_file too`},
		{`tcp.tls.key_file = "a"`, `1: tcp.tls.key_file: a key is no use without its certificate`},
		{`tcp.tls.ca_file = "a"`, `1: tcp.tls.ca_file: this is used only with TLS`},
		{`tcp.tls.first = true`, `1: tcp.tls.first: this is used only with TLS`},
		{`tcp.tls.first = "yes"`, `1: tcp.tls.first: this must be true or false, not a string`},
		{`tcp.user = 5`, `1: tcp.user: this must be a [[tcp.user]] for each user, not a whole number`},
		{user("", "password = '"+hash+"'"), `2: tcp.user[1].name: a user needs a name`},
		{user("a b", "password = '"+hash+"'"), `2: tcp.user[1].name: "a b" has a space`},
		{user(long[:65], "password = '"+hash+"'"), `is longer than 64 bytes`},
		{user("a", "password_file = 'x'") + user("a", "password_file = 'x'"), `5: tcp.user[2].name: the name "a" is that of tcp.user[1] already`},
		{user("a", ""), "1: tcp.user[1].password: a user needs a password: write its bcrypt hash, which `edged passwd` makes"},
		{user("a", "password = '"+hash+"'\npassword_file = 'x'"), `4: tcp.user[1].password_file: there is a password already`},
		{user("a", "password = 'hunter2'"), `3: tcp.user[1].password: this is no bcrypt hash`},
		{user("a", "password = '"+strings.Replace(hash, "10", "17", 1)+"'"), `of a cost from 4 to 16`},
		{user("a", "password_file = 'x'\npublish.allow = ['a', 'b..c']"), `4: tcp.user[1].publish.allow[2]: the subject "b..c" has an empty part`},
		{user("a", "password_file = 'x'\nsubscribe.deny = ['a.>.b']"), `4: tcp.user[1].subscribe.deny[1]: the subject "a.>.b" has a > before its end`},
		{user("a", "password_file = 'x'\nsubscribe.deny = 'a'"), `4: tcp.user[1].subscribe.deny: this must be an array of strings such as ["a", "b"], not a string`},
		{user("a", "password_file = 'x'\nsubscribe.deny = [5]"), `4: tcp.user[1].subscribe.deny[1]: this must be a string in quotes`},
		{user("a", "password_file = 'x'\npublish.deny = ["+strings.Repeat("'a',", 101)+"]"), `4: tcp.user[1].publish.deny: it has 101 subjects, at most 100`},
		{user("a", "password_file = 'x'\npublish.alow = []"), `4: tcp.user[1].publish.alow: there is no such key: did you mean allow?`},
		{`tcp.memory = "1KiB"`, `1: tcp.memory: this must be between 1MiB and 1GiB`},
		{"tcp.max_payload = '8MiB'\ntcp.memory = '2MiB'", `2: tcp.memory: what may wait for all clients (tcp.memory = "2MiB") must hold`},
		{`tcp.max_pending = "512KiB"`, `1: tcp.max_pending: what may wait for a client (tcp.max_pending = "512KiB") must hold`},
		{`tcp.max_payload = "9MiB"`, `1: tcp.max_payload: what may wait for a client`},
		{`control.socket = "control.sock"`, `1: control.socket: "control.sock" is no absolute path`},
		{`control.socket = "/` + long[:107] + `"`, `1: control.socket: the path has 108 bytes`},
		{`control.socket = "/a\u0000b"`, `zero byte`},
		{`drain.timeout = "-1s"`, `1: drain.timeout: this must be between 0s and 1h`},
		{`log.format = "xml"`, `1: log.format: "xml" is none of auto, json, console`},
		{`list = []`, `1: list: there is no list to relay`},
		{`list = 5`, `1: list: this must be a [[list]] for each list, not a whole number`},
		{"list = [\n{key = 'a'},\n7]", `3: list[2]: this must be a table, not a whole number`},
		{`redis = 5`, `1: redis: this must be a table, not a whole number`},
		{`[[redis]]`, `1: redis: this must be a table, not an array`},
		{`instance = true`, `1: instance: this must be a string in quotes, not true or false`},
		{`instance = 1.5`, `not a number with a fraction`},
		{`instance = 2026-01-01`, `not a date or time`},
		{"\n[[list]]\nack = 'none'", `2: list[1].key: a list needs the key`},
		{"[[list]]\nkey = '" + long + "'", `2: list[1].key: the key is longer than 512 bytes`},
		{"[[list]]\nkey = 'a'\n[[list]]\nkey = 'a'\nsubject = 'b'", `4: list[2].key: the key "a" is that of list[1] already`},
		{"[[list]]\nkey = 'a'\n[[list]]\nkey = 'b'\nsubject = 'a'", `5: list[2].subject: the subject "a" is that of list[1] already: choose another`},
		{"[[list]]\nkey = 'a b'", `2: list[1].key: the subject "a b" has a space or a control character in it: give the list a subject of its own`},
		{"[[list]]\nkey = 'a'\nsubject = 'a.*'", `3: list[1].subject: the subject "a.*" has a wildcard in it: choose another`},
		{"[[list]]\nkey = 'a'\nsubject = 'a..b'", `has an empty part between dots`},
		{"[[list]]\nkey = 'a'\nsubject = '$JS'", `begins with $, which is reserved`},
		{"[[list]]\nkey = 'a'\nsubject = '_INBOX.a'", `begins with _INBOX., which is reserved`},
		{"[[list]]\nkey = 'a'\nsubject = 'edged.a'", `begins with edged., which is reserved`},
		{"[[list]]\nkey = 'a'\nack = 'yes'", `3: list[1].ack: "yes" is none of received, explicit, none`},
		{"[[list]]\nkey = 'a'\ntake_from = 'top'", `3: list[1].take_from: "top" is none of left, right`},
		{"[[list]]\nkey = 5", `2: list[1].key: this must be a string in quotes`},
		{"[[list]]\nkey = 'a'\nmax_lag = '10ms'", `3: list[1].max_lag: this must be between 1s and 168h, or 0s for no bound`},
		{"[[list]]\nkey = 'a'\nclass = 10", `3: list[1].class: this must be between 0 and 9`},
		{"[[list]]\nkey = 'a'\ndedup = 'id'", `3: list[1].dedup: "id" is neither "payload" nor "json:PATH"`},
		{"[[list]]\nkey = 'a'\ndedup = 'json:'", `3: list[1].dedup: "json:" names no field: write "json:id", or "json:sensor.id"`},
		{"[[list]]\nkey = 'a'\ndedup = 'json:a.#'", `3: list[1].dedup: "json:a.#" is more than the path of a field: use names and dots only`},
		{"[[list]]\nkey = 'a'\ndedup_items = 0", `3: list[1].dedup_items: this must be between 1 and 1000000`},
		{"[[list]]\nkey = 'a'\ndedup = 'payload'\ndedup_items = 100000", `4: list[1].dedup_items: the windows of the lists with dedup take "2626KiB", more than a quarter of delivery.memory = "8MiB": lower dedup_items or raise delivery.memory`},
		{"[delivery]\nmemory = '1MiB'\n[[list]]\nkey = 'a'\ndedup = 'payload'", `2: delivery.memory: the windows of the lists with dedup take "420KiB", more than a quarter of delivery.memory = "1MiB": lower dedup_items or raise delivery.memory`},
		{"[delivery]\nshare = 1", `2: delivery.share: this must be between 2 and 1000, or 0 for no turn`},
		{explicit + "ack_wait = '99ms'", `4: list[1].ack_wait: this must be between 100ms and 24h`},
		{explicit + "max_deliver = -1", `4: list[1].max_deliver: this must be between 0 and`},
		{explicit + "max_ack_pending = 0", `4: list[1].max_ack_pending: this must be between 1 and 65536`},
		{explicit + "backoff = '1s'", `4: list[1].backoff: this must be an array of durations such as ["1s", "10s"], not a string`},
		{explicit + "backoff = ['1s',\n'0s']", `5: list[1].backoff[2]: this must be between 1ms and 24h`},
		{explicit + "backoff = ['1s',\n'soon']", `5: list[1].backoff[2]: "soon" is no duration`},
		{explicit + "backoff = [" + strings.Repeat("'1s',", 101) + "]", `4: list[1].backoff: it has 101 durations, at most 100`},
		{"[[list]]\nkey = 'a'\nack_wait = '1s'", `3: list[1].ack_wait: this is used only where ack = "explicit", and this list has "received"`},
		{"[[list]]\nkey = 'a'\nmax_deliver = 3", `3: list[1].max_deliver: this is used only where`},
		{"[[list]]\nkey = 'a'\nbackoff = ['1s']", `3: list[1].backoff: this is used only where`},
		{"[[list]]\nkey = 'a'\nack = 'none'\nmax_ack_pending = 1", `4: list[1].max_ack_pending: this is used only where ack = "explicit", and this list has "none"`},
		{"[[list]]\nkey = 'a'\nack = 'yes'\nmax_deliver = 3", `3: list[1].ack: "yes" is none of`},
		{`delivery.inbound_buffer = "63KiB"`, `1: delivery.inbound_buffer: this must be between 64KiB and 1GiB`},
		{`inbound = 5`, `1: inbound: this must be an [[inbound]] for each subject, not a whole number`},
		{"[[inbound]]\nlist = 'a'", `1: inbound[1].subject: write the subject that clients publish to`},
		{"[[inbound]]\nsubject = 'a'", `1: inbound[1].list: a list needs the key it has in Redis`},
		{inbound("a", "max_len = -1"), `4: inbound[1].max_len: this must be between 0 and 4294967295`},
		{inbound("a", "max_len = '1KiB'"), `4: inbound[1].max_len: this must be a whole number, not a string`},
		{inbound("a", "take_from = 'top'"), `4: inbound[1].take_from: "top" is none of left, right`},
		{inbound("a", "") + inbound("a", ""), `6: inbound[2].subject: the subject "a" is that of inbound[1] already`},
		{inbound("a b", ""), `has a space or a control character in it: choose another`},
		{inbound("a..b", ""), `has an empty part between dots`},
		{inbound("a*.b", ""), `has a wildcard that is only a piece of the part between dots`},
		{inbound("a.>.b", ""), `has a > before its end`},
		{inbound("*.a", ""), `begins with a wildcard, which would take what is reserved`},
		{inbound(">", ""), `begins with a wildcard`},
		{inbound("$JS.API", ""), `begins with $, which is reserved`},
		{inbound("_INBOX.*", ""), `begins with _INBOX., which is reserved`},
		{inbound("edged.a", ""), `begins with edged., which is reserved`},
		{inbound("events", ""), `2: inbound[1].subject: the subject "events" stands for "events" too, which is that of list[1]`},
		{"[[list]]\nkey = 'a.b.c'\n" + inbound("a.*.c", ""), `4: inbound[1].subject: the subject "a.*.c" stands for "a.b.c" too`},
		{"[[list]]\nkey = 'a.b.c'\n" + inbound("a.>", ""), `the subject "a.>" stands for "a.b.c" too`},
		{"[[list]]\nkey = 'x'\n" + inbound("a", "take_from = 'right'"), `6: inbound[1].take_from: items would be pushed to the head of list[1]: write take_from = "left" here`},
		{"[[list]]\nkey = 'x'\ntake_from = 'right'\n" + inbound("a", ""), `4: inbound[1].take_from: items would be pushed to the head of list[1]: write take_from = "right" here`},
	} {
		got := parseProblems(t, c.file)
		if len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%.80s\ngot  %s\nwant %s", c.file, strings.Join(got, "\n     "), c.want)
		}
	}
}

const explicit = "[[list]]\nkey = 'a'\nack = 'explicit'\n"

// hash is of a password with the default cost.
const hash = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"

// user is a [[tcp.user]] of three lines or more.
func user(name, more string) string {
	return "[[tcp.user]]\nname = '" + name + "'\n" + more + "\n"
}

func TestPasswordsAreInNoProblem(t *testing.T) {
	for _, file := range []string{"redis.address = 'redis://:hunter2@a'", "redis.address = 'redis://hunter2:6379:x@a:b'", user("a", "password = 'hunter2'"), user("a", "password = 'hunter2'\npassword_file = 'x'")} {
		if got := strings.Join(parseProblems(t, file), "\n"); strings.Contains(got, "hunter2") {
			t.Error(got)
		}
	}
}

// inbound is an [[inbound]] of four lines.
func inbound(subject, more string) string {
	return "[[inbound]]\nsubject = '" + subject + "'\nlist = 'x'\n" + more + "\n"
}

func TestInboundSubjectsBesideThoseOfTheListsAreGood(t *testing.T) {
	for _, subject := range []string{"a", "a.b", "a.*", "a.b.c.d", "a.*.c.>", "a.*.d", "events2", "a.b.c.>"} {
		if _, err := Parse("x.toml", []byte("[[list]]\nkey = 'a.b.c'\n"+inbound(subject, ""))); err != nil {
			t.Error(err)
		}
	}
}

func TestDefaultsOfExplicitListsMayBeWrittenOutAnywhere(t *testing.T) {
	for _, ack := range []string{AckReceived, AckExplicit, AckNone} {
		file := "[[list]]\nkey = 'a'\nack = '" + ack + "'\nack_wait = '30s'\nmax_deliver = 0\nbackoff = []\nmax_ack_pending = 1000"
		if _, err := Parse("x.toml", []byte(file)); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownKeysAreMetWithAGuess(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"[tcp]\nListen = ''", "2: tcp.Listen: there is no such key: did you mean listen?"},
		{"[redi]\ndb = 1", "1: redi: there is no such key: did you mean redis?"},
		{"[delivery]\npoll_interval = '1s'", "there is no such key here: did you mean redis.poll_interval?"},
		{"[tcp]\ninstance = 'a'", "there is no such key in this table: instance stands at the top of the file"},
		{"[log]\ncolour = 'x'", "there is no such key: remove it, or use one of level, format"},
		{"[redis]\npassword = 'x'", "2: redis.password: there is no such key: write it as the first line of a file, and name that file in redis.password_file"},
		{"[[list]]\nkey = 'a'\nname = 'a'", "3: list[1].name: there is no such key: write key"},
		{"[log]\nlevel = 'wran'", `2: log.level: "wran" is none of debug, info, warn, error: did you mean warn?`},
		{"'a key' = 1", `1: "a key": there is no such key`},
	} {
		got := parseProblems(t, c.file)
		if len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%s\ngot  %s\nwant %s", c.file, strings.Join(got, "\n     "), c.want)
		}
	}
}

func TestSyntaxErrorsNameTheirLine(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"[tcp]\nlisten = \n", "x.toml:2: this is no TOML: "},
		{"[tcp]\nlisten = ''\n\nlisten = ''", "x.toml:4: this is no TOML: "},
		{"\n\n[tcp", "x.toml:3: this is no TOML: "},
	} {
		if got := parseProblems(t, c.file); len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%q: got %q, want %q", c.file, got, c.want)
		}
	}
}

func TestKeysAreFoundOnTheirLines(t *testing.T) {
	const file = `# comment, [tcp]
x1 = 2
"quo\u0074ed x" = 3 # "
'literal.x' = 4
long = """
x = 5
\"" """"
after = 8
raw = '''
x = 9 \'''''
x2 = 11
array = [ # ]
  "]", '}', [1, 2],
]
x3 = 15
tcp.x4 = 16
inline = {x = "}", y = {z = 1}}

  [ redis . "x5" ] # header
x = 20
[[list]]
x6 = 22
key = "a"
[list.deeper]
x7 = 25
[[list]] # second
x8 = 27
key = "b"
`
	got := locate(file)
	for path, want := range map[string]int{
		"x1": 2, `"quoted x"`: 3, `"literal.x"`: 4, "long": 5, "after": 8, "raw": 9, "x2": 11,
		"array[3][2]": 13, "x3": 15, "tcp.x4": 16, "inline.x": 17, "inline.y.z": 17,
		"redis.x5.x": 20, "list[1].x6": 22, "list[1].deeper.x7": 25, "list[2]": 26, "list[2].x8": 27,
	} {
		if got[path] != want {
			t.Errorf("%s is on line %d, got %d", path, want, got[path])
		}
	}
	if line, ok := got["x"]; ok {
		t.Errorf("line %d is inside a string, not a key", line)
	}
	// The TOML package agrees that the file is good.
	for _, problem := range parseProblems(t, file) {
		if strings.Contains(problem, "no TOML") {
			t.Error(problem)
		}
	}
}

func TestSizesAndDurationsReadWhatTheyWrite(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4 * kib, "1B": 1, "64KB": 64000, "1MiB": mib, "3 GiB": 3 * gib, "1mib": mib, "2GB": 2e9,
	} {
		var got, again Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != want {
			t.Errorf("%s: wrote %s, read %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "B", "MiB", "-1", "1.5MiB", "1M", "1 2", "0x10", "9223372036854775808", "9007199254740992KiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %d bytes", text, s)
		}
	}
	for want, d := range map[string]Duration{
		"0s": 0, "250ms": 250 * millisecond, "2m": 2 * minute, "1h": hour, "1h30m": 90 * minute, "1m1s": 61 * second, "10s": 10 * second,
	} {
		if got := d.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	reference, err := os.ReadFile(reference)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference))
	f.Add("[[list]]\nkey = 5\n[list.x]\ny = \"\"\"\n\"\"\"\"\n[[list]]")
	f.Add("list = [{key = 'a', x.y = [1, {z = 2}]}, 3]\r\n\"a\\u0062\" = 1")
	f.Add("tcp.listen = 1\n['a.b'.\"c[0]\"]\nd = inf # x")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("x.toml", []byte(text))
		if err == nil {
			if len(c.Lists) == 0 {
				t.Error("a configuration without lists")
			}
			return
		}
		var bad *Error
		if !errors.As(err, &bad) || len(bad.Problems) == 0 {
			t.Fatalf("an error without problems: %v", err)
		}
		last := 1
		for _, p := range bad.Problems {
			if p.Line < last || p.Line > strings.Count(text, "\n")+1 || p.Message == "" {
				t.Errorf("impossible or out of order: %s", fmt.Sprintf("%+v", p))
			}
			last = p.Line
		}
	})
}

// Keys that stand for others are none themselves.
func TestConfusionsAreNoKeys(t *testing.T) {
	known := make(map[string]bool)
	for _, key := range schema("", reflect.TypeFor[Config]()) {
		known[elementNumber.ReplaceAllString(key, "")] = true
	}
	for key := range confusions {
		table := key[:max(0, strings.LastIndexByte(key, '.'))]
		if known[key] || table != "" && !known[table] {
			t.Errorf("%s is a key, or %s is no table", key, table)
		}
	}
}
