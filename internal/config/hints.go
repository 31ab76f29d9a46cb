package config

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"edged/internal/nearest"
)

// confusions are keys as Redis, its libraries, NATS and systemd have them, and what to write in their place.
var confusions = map[string]string{
	"redis.password":    "write it as the first line of a file, and name that file in redis.password_file",
	"redis.pass":        "write it as the first line of a file, and name that file in redis.password_file",
	"redis.auth":        "write it as the first line of a file, and name that file in redis.password_file",
	"redis.requirepass": "write it as the first line of a file, and name that file in redis.password_file",
	"redis.user":        "write redis.username",
	"redis.host":        `write redis.address = "host:port"`,
	"redis.port":        `write redis.address = "host:port"`,
	"redis.url":         `write redis.address = "host:port", and the password in a file that redis.password_file names`,
	"redis.socket":      `write redis.address = "unix:///path/to.sock"`,
	"redis.unixsocket":  `write redis.address = "unix:///path/to.sock"`,
	"redis.path":        `write redis.address = "unix:///path/to.sock"`,
	"redis.database":    "write redis.db",
	"redis.ssl":         "write redis.tls.enabled = true",
	"redis.sentinels":   "write redis.sentinel.addresses",
	"redis.nodes":       "write redis.cluster",

	"tcp.host":           `write tcp.listen = "host:port"`,
	"tcp.port":           `write tcp.listen = "host:port"`,
	"tcp.bind":           `write tcp.listen = "host:port"`,
	"tcp.address":        `write tcp.listen = "host:port"`,
	"tcp.maxclients":     "write tcp.max_connections",
	"tcp.write_deadline": "write delivery.receipt_timeout",
	"tcp.authorization":  "write tcp.auth.token_file, or a [[tcp.user]] for each user",
	"tcp.token":          "write it as the first line of a file, and name that file in tcp.auth.token_file",
	"tcp.password":       "write a [[tcp.user]] with a name and a password_file",
	"tcp.auth.token":     "write it as the first line of a file, and name that file in tcp.auth.token_file",
	"tcp.user.user":      "write name",

	"port":          `write tcp.listen = "host:port"`,
	"http_port":     `write http.listen = "host:port"`,
	"monitor_port":  `write http.listen = "host:port"`,
	"maxclients":    "write tcp.max_connections",
	"server_name":   "write instance",
	"name":          "write instance",
	"authorization": "write tcp.auth.token_file, or a [[tcp.user]] for each user",
	"users":         "write a [[tcp.user]] for each user",
	"jetstream":     "write tcp.jetstream",
	"loglevel":      "write log.level",
	"logfile":       "edged logs to standard error, or to systemd's journal: remove this",
	"tls":           "write tcp.tls for clients, redis.tls for Redis",
	"leafnodes":     "write an [[uplink]]",

	"list.name":       "write key",
	"list.ack_policy": "write ack",
	"list.priority":   "write class",
	"list.duplicates": "write dedup",
	"list.dedupe":     "write dedup",
	"inbound.key":     "write list",
	"inbound.maxlen":  "write max_len",
	"uplink.servers":  "write url",
	"uplink.creds":    "write creds_file",
	"uplink.nkey":     "write nkey_file",
	"uplink.password": "write it as the first line of a file, and name that file in password_file",
	"uplink.token":    "write it as the first line of a file, and name that file in token_file",
	"uplink.username": "write user",
	"control.path":    "write control.socket",
	"http.port":       `write http.listen = "host:port"`,
	"drain.grace":     "write drain.timeout",
	"log.file":        "edged logs to standard error, or to systemd's journal: remove this",
}

var elementNumber = regexp.MustCompile(`\[\d+\]`)

// hint guesses which key of a table was meant by an unknown one: one that another program has, one
// that is spelled nearly so, or one of that name in another table.
func hint(path, key string, table reflect.Type) string {
	if advice := confusions[elementNumber.ReplaceAllString(path, "")]; advice != "" {
		return ": " + advice
	}
	known := keysOf(table)
	if meant := nearest.Name(key, known); meant != "" {
		return fmt.Sprintf(": did you mean %s?", meant)
	}

	root := reflect.TypeFor[Config]()
	if slices.Contains(keysOf(root), key) {
		return fmt.Sprintf(" in this table: %s stands at the top of the file", key)
	}
	for i, name := range keysOf(root) {
		t := root.Field(i).Type
		if t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() == reflect.Struct && slices.Contains(keysOf(t), key) {
			return fmt.Sprintf(" here: did you mean %s.%s?", name, key)
		}
	}
	return fmt.Sprintf(": remove it, or use one of %s", strings.Join(known, ", "))
}

// checkURL refuses the forms in which other programs have an address of Redis, and says how to write it
// here. A password in it is not repeated.
func checkURL(address string) error {
	scheme, rest, _ := strings.Cut(address, ":")
	switch {
	case strings.HasPrefix(address, "/"):
		return fmt.Errorf("%q is a path: write \"unix://%s\"", address, address)
	case scheme == "unix":
		return fmt.Errorf("%q has not three slashes after unix: write \"unix:///%s\"", address, strings.TrimLeft(rest, "/"))
	case scheme != "redis" && scheme != "rediss" && scheme != "tcp" || !strings.HasPrefix(rest, "//"):
		return nil
	}

	at, err := url.Parse(address)
	if err != nil || at.Host == "" {
		return fmt.Errorf("an address has no %s://: write host:port", scheme)
	}
	host := at.Host
	if at.Port() == "" {
		host += ":6379"
	}
	also := ""
	if at.User != nil {
		also += ", the user in redis.username, and the password in a file that redis.password_file names"
	}
	if db := strings.Trim(at.Path, "/"); db != "" {
		also += fmt.Sprintf(", and redis.db = %s", db)
	}
	if scheme == "rediss" {
		also += ", and redis.tls.enabled = true"
	}
	return fmt.Errorf("an address has no %s://: write %q%s", scheme, host, also)
}
