package redis

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// version is the version of Redis that the server says it is.
const version = "7.2.4"

// runs counts run IDs given out: they are unique in the process and the same in each
// run of it.
var runs atomic.Int64

func newRunID() string { return sha1Hex(fmt.Sprint("run ", runs.Add(1))) }

// hello is HELLO. mu is held.
func (r *Redis) hello(c *client, words []string) {
	if len(words) > 0 {
		if _, err := strconv.Atoi(words[0]); err != nil {
			c.error("ERR Protocol version is not an integer or out of range")
			return
		}
		if words[0] != "2" {
			c.error("NOPROTO unsupported protocol version")
			return
		}
		if !r.helloOptions(c, words[1:]) {
			return
		}
	}

	c.array(14)
	c.bulk("server")
	c.bulk("redis")
	c.bulk("version")
	c.bulk(version)
	c.bulk("proto")
	c.integer(2)
	c.bulk("id")
	c.integer(c.id)
	c.bulk("mode")
	c.bulk("standalone")
	c.bulk("role")
	if r.fault == ReadOnly {
		c.bulk("replica")
	} else {
		c.bulk("master")
	}
	c.bulk("modules")
	c.array(0)
}

// helloOptions takes the words after the protocol's version, or replies with the
// error. mu is held.
func (r *Redis) helloOptions(c *client, words []string) (ok bool) {
	for len(words) > 0 {
		switch option := strings.ToUpper(words[0]); {
		case option == "AUTH" && len(words) > 2:
			if words[1] != "default" {
				c.error("WRONGPASS invalid username-password pair or user is disabled.")
				return false
			}
			words = words[3:]
		case option == "SETNAME" && len(words) > 1:
			c.name, words = words[1], words[2:]
		default:
			c.error(fmt.Sprintf("ERR Syntax error in HELLO option '%s'", words[0]))
			return false
		}
	}
	return true
}

// auth is AUTH: there is only the default user, which has no password. mu is held.
func (r *Redis) auth(c *client, words []string) {
	switch {
	case len(words) == 1:
		c.error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	case len(words) > 2:
		c.error("ERR syntax error")
	case words[0] != "default":
		c.error("WRONGPASS invalid username-password pair or user is disabled.")
	default:
		c.status("OK")
	}
}

// configGet is CONFIG GET. mu is held.
func (r *Redis) configGet(c *client, patterns []string) {
	var names []string
	for name := range r.config {
		if slices.ContainsFunc(patterns, func(pattern string) bool {
			matches, err := path.Match(strings.ToLower(pattern), name)
			return matches && err == nil
		}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	c.array(2 * len(names))
	for _, name := range names {
		c.bulk(name)
		c.bulk(r.config[name])
	}
}

// configSet is CONFIG SET, which changes only what CONFIG GET and INFO say. mu is
// held.
func (r *Redis) configSet(c *client, words []string) {
	if len(words)%2 != 0 {
		c.error("ERR wrong number of arguments for 'config|set' command")
		return
	}
	for i := 0; i < len(words); i += 2 {
		if _, known := r.config[strings.ToLower(words[i])]; !known {
			c.error(fmt.Sprintf("ERR Unknown option or number of arguments for CONFIG SET - '%s'", words[i]))
			return
		}
	}
	for i := 0; i < len(words); i += 2 {
		r.config[strings.ToLower(words[i])] = words[i+1]
	}
	c.status("OK")
}

// sections are those of INFO, in order.
var sections = []struct {
	name   string
	fields func(r *Redis) []any // names and values by turns
}{
	{"Server", func(r *Redis) []any {
		return []any{"redis_version", version, "redis_mode", "standalone", "run_id", r.runID}
	}},
	{"Clients", func(r *Redis) []any {
		return []any{"connected_clients", len(r.clients), "maxclients", r.config["maxclients"]}
	}},
	{"Memory", func(r *Redis) []any {
		return []any{"used_memory", r.usedMemory(), "maxmemory", r.config["maxmemory"], "maxmemory_policy", r.config["maxmemory-policy"]}
	}},
	{"Persistence", func(r *Redis) []any { return []any{"loading", flag(r.fault == Loading)} }},
	{"Stats", func(r *Redis) []any { return []any{"total_commands_processed", r.executed} }},
	{"Replication", func(r *Redis) []any {
		role := "master"
		if r.fault == ReadOnly {
			role = "slave"
		}
		return []any{"role", role, "connected_slaves", 0, "master_replid", sha1Hex("replica of " + r.runID)}
	}},
}

func flag(set bool) int {
	if set {
		return 1
	}
	return 0
}

// info is the reply to INFO. mu is held.
func (r *Redis) info(names []string) string {
	var texts []string
	for _, section := range sections {
		if len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool {
			name = strings.ToLower(name)
			return name == strings.ToLower(section.name) || name == "all" || name == "default" || name == "everything"
		}) {
			continue
		}
		var text strings.Builder
		fmt.Fprintf(&text, "# %s\r\n", section.name)
		fields := section.fields(r)
		for i := 0; i < len(fields); i += 2 {
			fmt.Fprintf(&text, "%v:%v\r\n", fields[i], fields[i+1])
		}
		texts = append(texts, text.String())
	}
	return strings.Join(texts, "\r\n")
}

// usedMemory is about as many bytes as Redis would use for the data. mu is held.
func (r *Redis) usedMemory() int {
	const (
		base  = 1 << 20
		value = 16 // bytes beside those of each value and each key
	)
	n := base
	for _, key := range r.save() {
		n += len(key.Name) + 4*value
		switch v := key.Value.(type) {
		case string:
			n += len(v)
		case []string:
			for _, item := range v {
				n += len(item) + value
			}
		case map[string]string:
			for field, v := range v {
				n += len(field) + len(v) + 2*value
			}
		case map[string]bool:
			for member := range v {
				n += len(member) + value
			}
		case map[string]float64:
			for member := range v {
				n += len(member) + 2*value
			}
		}
	}
	return n
}
