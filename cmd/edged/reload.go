package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"edged/internal/config"
	"edged/internal/uds"
)

// reloadable are the keys, or what they begin with, that reload applies.
var reloadable = []string{"tcp.tls", "tcp.auth", "tcp.user"}

type reloadAnswer struct {
	Changed      []string `json:"changed"`      // keys; what files hold is read again in any case
	Disconnected int      `json:"disconnected"` // clients whose rights have changed
}

func (a reloadAnswer) Text(w io.Writer) {
	changed := "no key has changed"
	if len(a.Changed) > 0 {
		changed = "changed: " + strings.Join(a.Changed, ", ")
	}
	fmt.Fprintf(w, "%s; certificates and passwords were read again; %s disconnected\n", changed, counted(a.Disconnected, "client"))
}

// reload reads the configuration again and applies it: all of it or, where it is
// bad or has changes that need a restart, nothing.
func (d *daemon) reload(context.Context, []string) (uds.Answer, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.reread == nil {
		return nil, uds.Errorf("NoFile", "edged -dev has no configuration file")
	}
	cfg, err := d.reread()
	if err != nil {
		return nil, badConfig(err)
	}
	a := reloadAnswer{Changed: config.Changes(d.inForce, cfg)}
	if a.Changed == nil {
		a.Changed = []string{}
	}
	if fixed := needRestart(a.Changed); len(fixed) > 0 {
		return nil, uds.Errorf("NeedsRestart", "nothing was applied; this needs a restart: %s", strings.Join(fixed, ", "))
	}
	sec, err := security(cfg.TCP)
	if err != nil {
		return nil, badConfig(err)
	}

	a.Disconnected = d.tcp.Reload(sec)
	d.inForce = cfg
	d.warnIfOpen()
	return a, nil
}

// needRestart picks out the keys that reload does not apply.
func needRestart(changed []string) (fixed []string) {
next:
	for _, key := range changed {
		for _, prefix := range reloadable {
			if rest, ok := strings.CutPrefix(key, prefix); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				continue next
			}
		}
		fixed = append(fixed, key)
	}
	return fixed
}

// badConfig is the error for a configuration that can't be used. It has a line for
// each problem, and an answer only one.
func badConfig(err error) error {
	return uds.Errorf("BadConfig", "nothing was applied: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
}
