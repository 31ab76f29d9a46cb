package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// validateUplinks also gives each uplink without lists all of them.
func (p *parser) validateUplinks(uplinks []Uplink, lists []List) {
	names := map[string]int{}
	for i := range uplinks {
		u, path := &uplinks[i], Index("uplink", i)
		if p.bad(path) {
			continue
		}
		p.check(path+".name", checkUplinkName(u.Name))
		if first, taken := names[u.Name]; taken {
			p.problem(path+".name", "the name %q is that of %s already: choose another", u.Name, Index("uplink", first))
		} else {
			names[u.Name] = i
		}
		p.validateHub(path, *u)
		p.validateUplinkLists(path, u, lists)
		between(p, path+".window_items", u.WindowItems, 1, 32_768)
		between(p, path+".window_bytes", u.WindowBytes, kib, 64*mib)
		between(p, path+".rate", u.Rate, 0, gib)
	}
}

func checkUplinkName(name string) error {
	fits := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	switch {
	case name == "":
		return errors.New("an uplink needs a name: it stands in the ledger of its lists")
	case len(name) > 32:
		return fmt.Errorf("%q is longer than 32 bytes", name)
	case strings.ContainsFunc(name, func(r rune) bool { return !fits(r) }):
		return fmt.Errorf("%q has other characters than letters, digits, - and _", name)
	}
	return nil
}

// validateHub checks where the hub is and how to get in.
func (p *parser) validateHub(path string, u Uplink) {
	if len(u.URL) == 0 {
		p.problem(path+".url", "write where the hub is: [\"nats://hub.example:4222\"]")
	}
	for i, address := range u.URL {
		at, err := url.Parse(address)
		if err != nil || at.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, at.Scheme) {
			p.problem(Index(path+".url", i), "%q is not the address of a NATS server: write nats://host:port, or tls:// in place of nats://", address)
		} else if at.User != nil {
			p.problem(Index(path+".url", i), "a password does not belong in an address: use user and password_file, or token_file")
		}
	}

	ways := []string{}
	for _, way := range []struct{ key, value string }{
		{"creds_file", u.CredsFile}, {"nkey_file", u.NkeyFile}, {"user", u.User}, {"token_file", u.TokenFile},
	} {
		if way.value != "" {
			ways = append(ways, way.key)
		}
	}
	if len(ways) > 1 {
		p.problem(path+"."+ways[1], "the uplink gets in by %s already: remove one of the two", ways[0])
	}
	if (u.User == "") != (u.PasswordFile == "") {
		p.problem(path+".user", "a user needs its password: write both user and password_file, or neither")
	}
	t := u.TLS
	if (t.CertFile == "") != (t.KeyFile == "") {
		p.problem(path+".tls.cert_file", "a client's certificate needs its key: write both cert_file and key_file, or neither")
	}
	if !t.Enabled && t != (ClientTLS{}) {
		p.problem(path+".tls", "this does nothing while TLS is off: write enabled = true, or remove it")
	}
}

func (p *parser) validateUplinkLists(path string, u *Uplink, lists []List) {
	if len(u.Lists) == 0 {
		for _, l := range lists {
			u.Lists = append(u.Lists, l.Key)
		}
	}
	subjects := map[string]string{}
	for i, key := range u.Lists {
		if !slices.ContainsFunc(lists, func(l List) bool { return l.Key == key }) {
			p.problem(Index(path+".lists", i), "there is no [[list]] with the key %q", key)
			continue
		}
		at := u.At("box", key)
		if err := checkSyntax(at); err != nil || strings.ContainsAny(at, "*>{}") {
			p.problem(path+".subject", "%q makes no subject of list %q: write tokens with dots between them, {instance} and {list}", u.Subject, key)
		} else if other, taken := subjects[at]; taken {
			p.problem(path+".subject", "the lists %q and %q have the same subject at the hub, %s: write {list} in it", other, key, at)
		}
		subjects[at] = key
	}
}
