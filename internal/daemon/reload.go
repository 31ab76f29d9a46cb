package daemon

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/config"
	"edged/internal/tcpserver"
	"edged/internal/uds"
)

// reloadable are the keys, or what they begin with, that reload applies.
var reloadable = []string{
	"list", "uplink", "delivery.batch_items", "delivery.batch_bytes", "delivery.window_items", "delivery.memory",
	"delivery.receipt_timeout", "delivery.max_away", "delivery.max_away_items", "delivery.share", "tcp.max_connections", "tcp.max_connections_per_address", "tcp.max_subscriptions", "tcp.max_pending", "tcp.memory",
	"tcp.connect_timeout", "tcp.ping_interval", "tcp.tls", "tcp.auth", "tcp.user", "drain.timeout", "log.level",
	"redis.username", "redis.password_file", "redis.sentinel.username", "redis.sentinel.password_file", "redis.tls",
}

// reloadAnswer is a line of reload: how far it is, then what it has done.
type reloadAnswer struct {
	State        string   `json:"state"`        // ending, while lists that go have items on their way; then reloaded
	InFlight     int      `json:"in_flight"`    // of those: items in the hands of clients
	Changed      []string `json:"changed"`      // keys; what files hold is read again in any case
	Added        []string `json:"added"`        // keys of lists; one whose subject, ack or take_from has changed is removed and added
	Removed      []string `json:"removed"`      // keys of lists
	Disconnected int      `json:"disconnected"` // clients whose rights have changed
	Fixed        []string `json:"fixed"`        // keys that name systemd credentials: their contents are as of the start
	Strays       []string `json:"strays"`       // uplinks that are in no configuration and hold a list
}

func (a reloadAnswer) Text(w io.Writer) {
	if a.State == "ending" {
		fmt.Fprintf(w, "ending %s: %s on their way\n", keyed(a.Removed), counted(a.InFlight, "item"))
		return
	}
	changed := "no key has changed"
	if len(a.Changed) > 0 {
		changed = "changed: " + strings.Join(a.Changed, ", ")
	}
	if len(a.Removed) > 0 {
		changed += "; lists removed: " + keyed(a.Removed)
	}
	if len(a.Added) > 0 {
		changed += "; lists added: " + keyed(a.Added)
	}
	read := "certificates and passwords were read again"
	if len(a.Fixed) > 0 {
		read += ", except systemd's credentials, which need a restart to change: " + strings.Join(a.Fixed, ", ")
	}
	fmt.Fprintf(w, "%s; %s; %s disconnected\n", changed, read, counted(a.Disconnected, "client"))
	for _, stray := range a.Strays {
		fmt.Fprintln(w, stray)
	}
}

// keyed are keys of lists in words.
func keyed(keys []string) string {
	shown := make([]string, len(keys))
	for i, key := range keys {
		shown[i] = printable(key)
	}
	return strings.Join(shown, ", ")
}

// reload reads the configuration again and applies it: all of it, or nothing if it is
// bad or has changes that need a restart. It goes on if the operator disconnects; a
// drain ends it.
func (d *daemon) reload(ctx context.Context, _ []string, send func(uds.Answer) error) error {
	select {
	case d.reloading <- struct{}{}:
		defer func() { <-d.reloading }()
	default:
		return uds.Errorf("Busy", "nothing was applied: another reload is under way")
	}
	if why := d.life.draining(); why != "" {
		return uds.Errorf("Draining", "nothing was applied: it drains (%s)", why)
	}
	c, err := d.changes()
	if err != nil {
		return err
	}
	return d.apply(ctx, c, send)
}

// changes are the input of a reload.
type changes struct {
	cfg           *config.Config
	contents                    // of Redis the secrets only
	keys          []string      // of the configuration
	going, coming []config.List // one that was changed is in both
}

// changes reads the configuration again, and holds it against the one in force.
func (d *daemon) changes() (c changes, err error) {
	if d.options.Reread == nil {
		return c, uds.Errorf("NoFile", "there is no configuration file to read again")
	}
	if c.cfg, err = d.options.Reread(); err != nil {
		return c, badConfig(err)
	}
	old := d.served.config()
	c.keys = config.Changes(old, c.cfg)
	if fixed := needRestart(c.keys); len(fixed) > 0 {
		return c, uds.Errorf("NeedsRestart", "nothing was applied; this needs a restart: %s", strings.Join(fixed, ", "))
	}
	if c.contents, err = readFiles(c.cfg, d.log.Logger); err != nil {
		return c, badConfig(err)
	}
	c.going, c.coming = listChanges(old.Lists, c.cfg.Lists)
	return c, nil
}

// apply puts the changes into force, and sends how far it is.
func (d *daemon) apply(ctx context.Context, c changes, send func(uds.Answer) error) error {
	a := reloadAnswer{State: "ending", Changed: append([]string{}, c.keys...), Added: keysOf(c.coming), Removed: keysOf(c.going), Fixed: credentials(c.cfg), Strays: []string{}}
	d.secrets.Renew(c.redis) // first: lists that end need Redis
	paused := make(map[string]bool)
	for _, s := range d.loop.Lists() {
		paused[s.Key] = s.Paused
	}

	d.stopUplinks(changedUplinks(c.cfg, slices.Concat(c.going, c.coming)))
	defer func() { d.startUplinks(d.served.config()) }() // after an error, with those in force
	if err := d.endLists(ctx, c.going, d.drainTimeout(), &a, send); err != nil {
		return err
	}
	d.served.replace(c.cfg, d.served.lists())
	if err := d.beginLists(ctx, c.coming, c.cfg, paused); err != nil {
		return err
	}

	d.startUplinks(c.cfg)
	if d.js != nil {
		d.js.Reloaded()
	}

	if err := d.loop.SetBatch(ctx, c.cfg.Delivery.BatchItems, int(c.cfg.Delivery.BatchBytes)); err != nil {
		return err
	}
	if err := d.loop.SetShare(ctx, c.cfg.Delivery.Share); err != nil {
		return err
	}
	d.log.level.UnmarshalText([]byte(c.cfg.Log.Level)) // config has checked it
	d.budget.SetLimit(int(c.cfg.TCP.Memory))
	d.options.memory.follow(c.cfg)
	d.tcp.SetLimits(d.limits(c.cfg))
	old := d.gate.Security()
	d.gate.Set(c.security)
	now := d.gate.Security()
	a.Disconnected = d.tcp.Reload()
	if d.http != nil {
		d.events.Renew(func(u *auth.User) bool { return now.Keeps(old, u) })
	}
	warnIfOpen(c.cfg, d.address, d.log.Logger)
	a.State, a.InFlight, a.Strays = "reloaded", 0, d.strayTexts()
	return send(a)
}

// keysOf returns the keys of lists, which are not nil: JSON has [] then, not null.
func keysOf(lists []config.List) []string {
	keys := make([]string, len(lists))
	for i, l := range lists {
		keys[i] = l.Key
	}
	return keys
}

// listChanges returns the lists that are no more, and those that are new. One whose
// subject, confirmation or head has changed is both.
func listChanges(old, now []config.List) (going, coming []config.List) {
	same := func(l, o config.List) bool {
		return l.Subject == o.Subject && l.Stream == o.Stream && l.Ack == o.Ack && l.TakeFrom == o.TakeFrom
	}
	without := func(some, others []config.List) (rest []config.List) {
		byKey := make(map[string]config.List, len(others))
		for _, o := range others {
			byKey[o.Key] = o
		}
		for _, l := range some {
			if o, ok := byKey[l.Key]; !ok || !same(l, o) {
				rest = append(rest, l)
			}
		}
		return rest
	}
	return without(old, now), without(now, old)
}

// endLists takes lists out of service: nothing more is taken of them, what is on
// its way is confirmed within the timeout, or goes back.
func (d *daemon) endLists(ctx context.Context, going []config.List, timeout time.Duration, a *reloadAnswer, send func(uds.Answer) error) error {
	if len(going) == 0 {
		return nil
	}
	gone := make(map[string]bool, len(going))
	for _, l := range going {
		gone[l.Key] = true
	}
	goes := func(l relayed) bool { return gone[l.Key] }
	for _, l := range going {
		if err := d.loop.Finish(ctx, l.Key); err != nil {
			return listError(l.Key, err)
		}
	}
	if err := d.awaitConfirmed(goes, timeout, a, send); err != nil {
		return err
	}
	for _, l := range d.served.lists() {
		if goes(l) {
			l.Stop() // its consumers go with it, and not by themselves: they still owe
		}
	}
	if d.js != nil {
		for _, l := range going {
			d.js.RemoveStream(l.Key)
		}
	}
	d.tcp.RemoveLists(keysOf(going)...)
	if d.events != nil {
		d.events.RemoveLists(keysOf(going)...)
	}
	for _, l := range going {
		if err := d.loop.Remove(ctx, l.Key); err != nil {
			d.log.Error("the list did not end cleanly", zap.String("list", l.Key), zap.Error(err))
		}
		d.log.Info("the list is not served any more", zap.String("list", l.Key))
	}
	for _, l := range d.served.lists() {
		if goes(l) {
			l.Unload() // it counts in nothing that lists share any more
		}
	}
	d.served.remove(goes)
	return nil
}

// awaitConfirmed waits until nothing of some lists is on its way, or for the
// timeout, and tells each second how far it is.
func (d *daemon) awaitConfirmed(which func(relayed) bool, timeout time.Duration, a *reloadAnswer, send func(uds.Answer) error) error {
	const look = 5 * time.Millisecond
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline, tell := time.Now().Add(timeout), time.Now()
	for {
		a.InFlight = 0
		for _, l := range d.served.lists() {
			if which(l) {
				a.InFlight += l.Stats().Owed
			}
		}
		now := time.Now()
		if a.InFlight == 0 || now.After(deadline) {
			return nil
		}
		if !now.Before(tell) {
			_ = send(*a) // who leaves does not stop it
			tell = now.Add(time.Second)
		}
		select {
		case <-d.life.begun:
			return uds.Errorf("Draining", "nothing was applied: it drains (%s)", d.life.draining())
		case <-ticker.C:
		}
	}
}

// beginLists puts lists into service, and gives all their options.
func (d *daemon) beginLists(ctx context.Context, coming []config.List, cfg *config.Config, paused map[string]bool) error {
	lists := make(map[string]relayed)
	for _, l := range d.served.lists() {
		lists[l.Key] = l
	}
	added, err := d.addLists(ctx, coming, cfg, paused)
	for _, l := range added {
		lists[l.Key] = l
	}
	if err != nil {
		return err
	}

	var served []relayed // in the order of the configuration
	for _, list := range cfg.Lists {
		l, ok := lists[list.Key]
		if !ok {
			continue
		}
		l.Set(relayOptions(list, cfg))
		if l.Keep != list.Keep { // waits for the loop
			if err := d.loop.SetKeep(ctx, list.Key, list.Keep); err != nil {
				return err
			}
		}
		if l.Class != list.Class {
			if err := d.loop.SetClass(ctx, list.Key, list.Class); err != nil {
				return err
			}
		}
		if l.Dedup != list.Dedup || l.DedupItems != list.DedupItems {
			by, items := dedupOf(list)
			if err := d.loop.SetDedup(ctx, list.Key, by, items); err != nil {
				return err
			}
		}
		served = append(served, relayed{list, l.window, l.before})
	}
	d.served.replace(cfg, served)
	if d.events != nil {
		d.events.AddLists(eventLists(coming)...)
	}
	return nil
}

// addLists adds lists to the loop and to all that leads to clients. After an error these have
// the lists that the loop has.
func (d *daemon) addLists(ctx context.Context, coming []config.List, cfg *config.Config, paused map[string]bool) (added []relayed, err error) {
	var subjects []tcpserver.List
	for _, list := range coming {
		l, source, subject := d.relay(list, cfg)
		source.Paused = paused[list.Key]
		if err = d.loop.Add(ctx, source); err != nil {
			break
		}
		d.addStream(l)
		added, subjects = append(added, l), append(subjects, subject)
	}

	d.tcp.AddLists(subjects...)
	for _, l := range added {
		d.log.Info("the list is served now", zap.String("list", l.Key))
	}
	return added, err
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
