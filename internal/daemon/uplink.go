package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/poller"
	"edged/internal/relay"
	"edged/internal/uds"
	"edged/internal/uplink"
)

// uplinkPrefix is what the names of uplinks begin with in the ledger. No JetStream client can
// name a consumer so.
const uplinkPrefix = "uplink/"

// forEver is longer than a box runs: no timer delivers an uplink's item again.
const forEver = 100 * 365 * 24 * time.Hour

// uplinks are the uplinks that run.
type uplinks struct {
	mu      sync.Mutex
	running map[string]*relaying     // guarded by mu; by name
	ended   map[string]uplink.Status // guarded by mu; by name: those that reload has stopped, for their counters
}

// relaying is an uplink that runs.
type relaying struct {
	cfg   config.Uplink
	up    *uplink.Uplink
	store *poller.Store
	feeds map[string]*uplink.Feed // by list; never changed
	task  task
}

// startUplinks starts the uplinks of a configuration that do not run. All of them learn the classes.
func (d *daemon) startUplinks(cfg *config.Config) {
	for _, c := range cfg.Uplinks {
		d.uplinks.mu.Lock()
		running, runs := d.uplinks.running[c.Name]
		before := d.uplinks.ended[c.Name]
		d.uplinks.mu.Unlock()
		if runs {
			running.setClasses(cfg)
			continue
		}
		u := d.buildUplink(c, cfg.Instance, before)
		d.uplinks.mu.Lock()
		if d.uplinks.running == nil {
			d.uplinks.running = make(map[string]*relaying)
		}
		d.uplinks.running[c.Name] = u
		d.uplinks.mu.Unlock()
		d.joinUplink(u, cfg)
		u.setClasses(cfg)
		u.task = startTask(u.up.Run)
	}
}

func (u *relaying) setClasses(cfg *config.Config) {
	of := make(map[string]int)
	for _, l := range cfg.Lists {
		of[l.Key] = l.Class
	}
	u.up.SetClasses(cfg.Delivery.Share, of)
}

// buildUplink makes an uplink whose counters go on from those before.
func (d *daemon) buildUplink(c config.Uplink, instance string, before uplink.Status) *relaying {
	u := &relaying{cfg: c, store: d.loop.NewStore(), feeds: make(map[string]*uplink.Feed)}
	hub := d.options.Hub
	if hub == nil {
		hub = d.natsHub
	}
	u.up = uplink.New(uplink.Options{
		Name: c.Name, Hub: hub(c, instance), WindowItems: c.WindowItems, WindowBytes: int(c.WindowBytes), Rate: int(c.Rate),
		Compare: d.comparer(u.store), Owns: u.store.Owns, Before: before, Log: d.log.Named("uplink").With(zap.String("uplink", c.Name)),
	})
	return u
}

// joinUplink makes the uplink a durable consumer of its lists.
func (d *daemon) joinUplink(u *relaying, cfg *config.Config) {
	for _, l := range d.served.lists() {
		log, ok := l.window.(*relay.Log)
		if !ok || !slices.Contains(u.cfg.Lists, l.Key) {
			continue
		}
		name := uplinkPrefix + u.cfg.Name
		if err := log.SetDurable(name, uplinkTerms(u.cfg.WindowItems)); err != nil {
			d.log.Error("an uplink can't take a list", zap.String("uplink", u.cfg.Name), zap.String("list", l.Key), zap.Error(err))
			continue
		}
		f := u.up.NewFeed(l.Key, u.cfg.At(cfg.Instance, l.Key))
		d.uplinks.mu.Lock()
		u.feeds[l.Key] = f
		d.uplinks.mu.Unlock()
		f.Join(log.JoinDurable(name, name, f))
	}
}

// uplinkTerms are those of an uplink's consumer.
func uplinkTerms(window int) relay.Durable {
	return relay.Durable{Terms: relay.Terms{Explicit: true, AckWait: forEver, MaxAckPending: 2 * window}, Uplink: true}
}

// stopUplinks stops some of the uplinks. Their lists still owe them what is not confirmed.
func (d *daemon) stopUplinks(which func(config.Uplink) bool) {
	d.uplinks.mu.Lock()
	var stopped []*relaying
	for name, u := range d.uplinks.running {
		if which(u.cfg) {
			stopped = append(stopped, u)
			delete(d.uplinks.running, name)
		}
	}
	d.uplinks.mu.Unlock()
	for _, u := range stopped {
		u.task.cancel()
		<-u.task.ended
		for _, f := range u.feeds {
			f.Leave()
		}
		u.store.Close()
		d.uplinks.mu.Lock()
		if d.uplinks.ended == nil {
			d.uplinks.ended = make(map[string]uplink.Status)
		}
		d.uplinks.ended[u.cfg.Name] = u.up.Status()
		d.uplinks.mu.Unlock()
	}
}

// changedUplinks tells which uplinks are no more, are others now, or have a list that is
// among some.
func changedUplinks(now *config.Config, lists []config.List) func(config.Uplink) bool {
	return func(u config.Uplink) bool {
		stays := slices.ContainsFunc(now.Uplinks, func(o config.Uplink) bool { return reflect.DeepEqual(o, u) })
		return !stays || slices.ContainsFunc(lists, func(l config.List) bool { return slices.Contains(u.Lists, l.Key) })
	}
}

// resetUplinks says that a list begins anew, or is another process's.
func (d *daemon) resetUplinks(key string) {
	d.uplinks.mu.Lock()
	var feeds []*uplink.Feed
	for _, u := range d.uplinks.running {
		if f := u.feeds[key]; f != nil {
			feeds = append(feeds, f)
		}
	}
	d.uplinks.mu.Unlock()
	for _, f := range feeds {
		f.Reset()
	}
}

// keepStrays lets uplinks that are in the ledger, but in no configuration any more, hold their list.
func (d *daemon) keepStrays(key string, log *relay.Log, names []string) {
	for _, name := range names {
		if d.strays(key, name) {
			_ = log.SetDurable(uplinkPrefix+name, uplinkTerms(1)) // it is there already
		}
	}
}

// strays reports whether an uplink that a list's ledger knows is not in the configuration.
func (d *daemon) strays(key, name string) bool {
	return !slices.ContainsFunc(d.served.config().Uplinks, func(u config.Uplink) bool {
		return u.Name == name && slices.Contains(u.Lists, key)
	})
}

// stray is an uplink that is in a list's ledger, and in no configuration.
type stray struct{ list, uplink string }

func (s stray) String() string {
	list := printable(s.list)
	return fmt.Sprintf("uplink %s is in no configuration and holds list %s: forget %s %s, or configure it again",
		s.uplink, list, list, uplinkPrefix+s.uplink)
}

// strayUplinks returns all of them, also those of lists that no process serves. If another instance serves
// a list, that one knows.
func (d *daemon) strayUplinks() (all []stray) {
	statuses := d.statuses()
	for _, l := range d.served.lists() {
		for _, c := range d.consumersOf(l, statuses[l.Key]) {
			name, ok := strings.CutPrefix(c.Name.Name, uplinkPrefix)
			if ok && c.Name.Durable && d.strays(l.Key, name) {
				all = append(all, stray{l.Key, name})
			}
		}
	}
	return all
}

// strayTexts are the uplinks that are in no configuration, in words. It is not nil.
func (d *daemon) strayTexts() []string {
	texts := []string{}
	for _, s := range d.strayUplinks() {
		texts = append(texts, s.String())
	}
	return texts
}

// forgetUplink ends an uplink that is in no configuration: the list is held for it no longer.
func (d *daemon) forgetUplink(ctx context.Context, l relayed, name string) (found bool, err error) {
	found = slices.Contains(d.strayUplinks(), stray{l.Key, name})
	store := d.loop.NewStore()
	defer store.Close()
	if err := store.Unregister(ctx, l.Key, uplinkPrefix+name); err != nil {
		return found, uds.Errorf("Redis", "%s", err)
	}
	return l.RemoveDurable(uplinkPrefix+name) || found, nil
}

// comparer compares items with those of lists over connections of its own.
func (d *daemon) comparer(store *poller.Store) uplink.Comparer {
	return func(ctx context.Context, list string, from uint64, items [][]byte) (first uint64, equal int, err error) {
		return store.Compare(ctx, list, d.served.fromRight(list), from, items)
	}
}

// natsHub is the hub of an uplink's configuration.
func (d *daemon) natsHub(c config.Uplink, instance string) uplink.Hub {
	return uplink.NewNATS(uplink.NATSOptions{
		URLs: c.URL, Name: "edged " + instance, Box: instance, Stream: c.Stream, Window: c.WindowItems,
		Connect: func() ([]nats.Option, error) { return d.hubOptions(c) },
	})
}

// namedFile is a key that names a file, with its value.
type namedFile struct {
	key  string
	name *string
}

// uplinkFiles are the keys of an uplink that name files.
func uplinkFiles(u *config.Uplink) []namedFile {
	return []namedFile{
		{"creds_file", &u.CredsFile}, {"nkey_file", &u.NkeyFile}, {"password_file", &u.PasswordFile}, {"token_file", &u.TokenFile},
		{"tls.ca_file", &u.TLS.CAFile}, {"tls.cert_file", &u.TLS.CertFile}, {"tls.key_file", &u.TLS.KeyFile},
	}
}

// isPublic reports whether a hub's address may be in no private network. A name is not looked up.
func isPublic(address string) bool {
	at, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(at.Hostname())
	if err != nil {
		return at.Hostname() != "localhost"
	}
	carriers := netip.MustParsePrefix("100.64.0.0/10")
	return !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsPrivate() && !carriers.Contains(ip)
}

// warnOfPublicHubs says in the log which hubs the unit as shipped may not reach.
func warnOfPublicHubs(cfg *config.Config, log *zap.Logger) {
	for i, u := range cfg.Uplinks {
		for j, address := range u.URL {
			if isPublic(address) {
				log.Warn("edged.service may not reach it (IPAddressDeny=any) unless it is in a private network: "+
					"allow it by the drop-in uplink-hub.conf, docs/UPLINK.md",
					place(cfg, config.Index(config.Index("uplink", i)+".url", j)), zap.String("hub", address))
			}
		}
	}
}

// uplinkMemory is about how much memory the uplinks take: what they hold of each list, and the connections.
func uplinkMemory(cfg *config.Config) (n int64) {
	const connection, item = 1 << 20, 512
	for _, u := range cfg.Uplinks {
		n += connection + int64(len(u.Lists))*(2*int64(u.WindowBytes)+2*item*int64(u.WindowItems)+int64(cfg.TCP.MaxPayload))
	}
	return n
}

// hubOptions read the files that an uplink names: they may have been renewed.
func (d *daemon) hubOptions(c config.Uplink) ([]nats.Option, error) {
	cfg := d.served.config()
	r := fileReader{cfg: cfg, log: zap.NewNop()}
	i := slices.IndexFunc(cfg.Uplinks, func(u config.Uplink) bool { return u.Name == c.Name })
	options := r.hub(config.Index("uplink", i), c)
	if len(r.problems) > 0 {
		return nil, errors.New(r.problems[0])
	}
	return options, nil
}

// hub returns how an uplink gets in. path is that of the uplink in the configuration.
func (r *fileReader) hub(path string, c config.Uplink) (options []nats.Option) {
	if _, ok := r.file(path+".creds_file", c.CredsFile); ok {
		options = append(options, nats.UserCredentials(r.path(path+".creds_file", c.CredsFile)))
	}
	if _, ok := r.file(path+".nkey_file", c.NkeyFile); ok {
		nkey, err := nats.NkeyOptionFromSeed(r.path(path+".nkey_file", c.NkeyFile))
		if err != nil {
			r.problem(path+".nkey_file", "%v: write a seed there, as `nk -gen user` makes it", err)
		}
		options = append(options, nkey)
	}
	if password := r.secret(path+".password_file", c.PasswordFile); c.User != "" {
		options = append(options, nats.UserInfo(c.User, password))
	}
	if token := r.secret(path+".token_file", c.TokenFile); token != "" {
		options = append(options, nats.Token(token))
	}
	if c.TLS.Enabled {
		options = append(options, nats.Secure(r.clientTLS(path+".tls", c.TLS)))
	}
	return options
}

// uplinkAnswer is an uplink, with how far it is behind.
type uplinkAnswer struct {
	uplink.Status
	Lists []uplinkList `json:"lists"`
}

type uplinkList struct {
	List    string  `json:"list"`
	Subject string  `json:"subject"`
	Items   uint64  `json:"lag_items"` // that Redis has and the hub has not confirmed
	Lag     float64 `json:"lag_seconds"`
	Missed  uint64  `json:"missed"` // items that were gone before the uplink got them
}

type uplinksAnswer struct {
	Uplinks []uplinkAnswer `json:"uplinks"`
	Strays  []string       `json:"strays"` // uplinks that are in no configuration and hold a list
}

func (d *daemon) uplinksAnswer() uplinksAnswer {
	a := uplinksAnswer{Uplinks: []uplinkAnswer{}, Strays: d.strayTexts()}
	lengths := make(map[string]int64)
	for _, s := range d.loop.Lists() {
		lengths[s.Key] = s.Backlog + s.Kept
	}
	cfg := d.served.config()
	for _, c := range cfg.Uplinks {
		d.uplinks.mu.Lock()
		u := d.uplinks.running[c.Name]
		d.uplinks.mu.Unlock()
		if u == nil {
			continue
		}
		one := uplinkAnswer{Status: u.up.Status(), Lists: []uplinkList{}}
		for _, l := range d.served.lists() {
			log, ok := l.window.(*relay.Log)
			if !ok || !slices.Contains(c.Lists, l.Key) {
				continue
			}
			of := uplinkList{List: l.Key, Subject: c.At(cfg.Instance, l.Key)}
			if at, known := log.Durable(uplinkPrefix+c.Name, log.State().First+uint64(lengths[l.Key])); known {
				of.Items, of.Missed = at.Pending+uint64(at.Out), at.Missed
				if of.Items > 0 {
					of.Lag = secondsSince(log.Seen(at.Floor))
				}
			}
			one.Lists = append(one.Lists, of)
		}
		a.Uplinks = append(a.Uplinks, one)
	}
	return a
}

// behind is how far the uplink is behind in all its lists: items, and the age of the oldest.
func (a uplinkAnswer) behind() (items uint64, lag time.Duration) {
	for _, l := range a.Lists {
		items += l.Items
		lag = max(lag, time.Duration(l.Lag*float64(time.Second)))
	}
	return items, lag
}

// texts are the uplinks in words, for status.
func (a uplinksAnswer) texts() []string {
	texts := []string{}
	for _, u := range a.Uplinks {
		items, lag := u.behind()
		text := fmt.Sprintf("%s: %s for %s, %s behind", u.Name, u.State, seconds(secondsSince(u.Since)), counted(int(items), "item"))
		if items > 0 {
			text += ", the oldest " + seconds(lag.Seconds()) + " old"
		}
		if u.Reason != "" {
			text += ": " + u.Reason
		}
		texts = append(texts, text)
	}
	return texts
}

func (a uplinksAnswer) Text(w io.Writer) {
	t := newTable("~UPLINK", "STATE", "FOR", "~LIST", "BEHIND", "LAG", "SENT", "SKIPPED")
	for _, u := range a.Uplinks {
		for _, l := range u.Lists {
			t.add(u.Name, u.State, seconds(secondsSince(u.Since)), printable(l.List), l.Items, seconds(l.Lag), u.Sent, u.Skipped+u.Repeated)
		}
	}
	t.write(w)

	for _, u := range a.Uplinks {
		name := u.Name + ": "
		if u.Reason != "" {
			wrap(w, name, u.Reason)
		}
		if u.Refused > 0 {
			wrap(w, name, "the hub refused "+counted(int(u.Refused), "item")+": dead letters")
		}
		if u.Sequential {
			wrap(w, name, "items of a list go one at a time, as other publishers use its stream")
		}
	}
	for _, stray := range a.Strays {
		wrap(w, "", stray)
	}
}

// pauseUplink pauses or resumes an uplink.
func (d *daemon) pauseUplink(name string, paused bool) error {
	d.uplinks.mu.Lock()
	u := d.uplinks.running[name]
	d.uplinks.mu.Unlock()
	if u == nil {
		return uds.Errorf(uds.NotFound, "there is no uplink %q; the command uplinks shows them", name)
	}
	u.up.Pause(paused)
	return nil
}
