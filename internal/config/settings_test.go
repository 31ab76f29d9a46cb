package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// origins are the settings of a configuration as text, by key.
func origins(c *Config) map[string]string {
	all := map[string]string{}
	for _, s := range c.Settings() {
		all[s.Key] = fmt.Sprintf("%v from %s", s.Value, s.Origin)
	}
	return all
}

func TestSettingsSayWhereEachValueComesFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edged.toml")
	content := "[redis]\ntimeout = \"1s\"\n\n[[list]]\nkey = \"a\"\n[[list]]\nkey = \"b\"\nack = \"explicit\"\nbackoff = [\"1s\", \"2s\"]\n"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := origins(c)
	for key, want := range map[string]string{
		"instance":        c.Instance + " from host name",
		"redis.address":   "127.0.0.1:6379 from default",
		"redis.timeout":   "1s from " + path + ":2",
		"list[1].key":     "a from " + path + ":5",
		"list[1].ack":     "received from default",
		"list[1].backoff": "[] from default",
		"list[2].ack":     "explicit from " + path + ":8",
		"list[2].backoff": "[1s 2s] from " + path + ":9",
		"tcp.max_payload": "1MiB from default",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
}

func TestSettingsHaveEveryKeyOfTheSchema(t *testing.T) {
	c := Default()
	c.Inbound, c.TCP.Users = []Inbound{newInbound()}, []User{{Name: "u", Password: "sesame"}}
	c.Uplinks = []Uplink{newUplink()}
	got := origins(c)
	if v := got["tcp.user[1].password"]; v != masked+" from default" {
		t.Errorf("a password is shown: %s", v)
	}
	for _, key := range schema("", reflect.TypeFor[Config]()) {
		there := func(k string) bool { return k == key || strings.HasPrefix(k, key+".") } // of a table, its keys
		if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), there) {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestSettingsShowNoSecrets(t *testing.T) {
	for name, want := range map[string]bool{
		"password": true, "token": true, "client_secret": true, "password_file": false, "username": false, "key": false,
	} {
		if secret(name) != want {
			t.Errorf("%s is a secret: %v, want %v", name, !want, want)
		}
	}
	type table struct {
		Password string `toml:"password"`
		Token    string `toml:"token"`
	}
	got := Default().settings("x", reflect.ValueOf(table{Password: "sesame"}))
	want := []Setting{{"x.password", masked, "default"}, {"x.token", "", "default"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
