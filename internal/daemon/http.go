package daemon

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"edged/internal/config"
	"edged/internal/httpserver"
)

// statusSubject is the subject of the state's service: a user that may ask it there may look
// at the state over HTTP as well.
const statusSubject = "edged.status"

// moreConnections are connections beside those of streams: for pages, figures, profiles.
const moreConnections = 64

// buildHTTP returns nil if there is nothing to listen on.
func (d *daemon) buildHTTP(cfg *config.Config) *httpserver.Server {
	if cfg.HTTP.Listen == "" && d.options.Sockets[HTTPSocket] == nil {
		return nil
	}
	d.events = d.buildEvents(cfg)
	return httpserver.New(httpserver.Options{
		Gate:       d.gate,
		Routes:     d.routes(cfg),
		Hosts:      hostNames(cfg),
		Origins:    cfg.HTTP.Origins,
		MaxClients: cfg.HTTP.MaxClients + moreConnections,
		Log:        d.log.Named("http"),
	})
}

// hostNames are the names that browsers may know the box by.
func hostNames(cfg *config.Config) []string {
	names := append([]string{cfg.Instance, cfg.Instance + ".local"}, cfg.HTTP.Hosts...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host, host+".local")
	}
	return names
}

func (d *daemon) routes(cfg *config.Config) []httpserver.Route {
	routes := []httpserver.Route{
		{Pattern: "/livez", Open: true, Handler: http.HandlerFunc(alive)},
		{Pattern: "/healthz", Open: true, Handler: http.HandlerFunc(d.healthz)},
		{Pattern: "/{$}", Subject: statusSubject, Handler: httpserver.Page()},
		{Pattern: "/stats/stream", Subject: statusSubject, Handler: httpserver.NewStats(d.historyJSON, d.snapshotJSON)},
	}
	for _, e := range d.monitoring() {
		routes = append(routes, httpserver.Route{Pattern: e.Path, Subject: statusSubject, Handler: e.Handler})
	}
	routes = append(routes, d.eventRoutes()...)
	if cfg.HTTP.Profiles {
		routes = append(routes, httpserver.Route{Pattern: profilePath, Subject: statusSubject, Handler: onLoopback(http.HandlerFunc(profiles))})
	}
	return routes
}

// alive answers if the process does.
func alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"status":"ok"}` + "\n"))
}

// healthz answers how the daemon is, as nats-server does: 200, or 503 with an error. Its reasons
// name lists, so they are for users that may look at the state.
func (d *daemon) healthz(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error,omitempty"`
	}{Status: "ok"}
	code := http.StatusOK
	if h := d.health(); !h.OK {
		answer.Status, answer.Error, code = "unavailable", "edged ctl health says why", http.StatusServiceUnavailable
		if !d.gate.Security().Closed() {
			answer.Error = strings.Join(h.Reasons, "; ")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(answer)
}

// profiles gives Go's profiles to go tool pprof, as net/http/pprof does, which would make edged
// 490 kB larger: profile?seconds=N, for 30 or N seconds, and heap, allocs, goroutine, with
// ?debug=1 or 2 for people.
func profiles(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, profilePath)
	if profile := pprof.Lookup(name); profile != nil {
		debug, _ := strconv.Atoi(r.URL.Query().Get("debug"))
		profile.WriteTo(w, debug)
		return
	}
	if name != "profile" {
		http.Error(w, "there are "+profilePath+"profile?seconds=N, heap, allocs, goroutine", http.StatusNotFound)
		return
	}

	seconds, err := strconv.Atoi(r.URL.Query().Get("seconds"))
	if err != nil {
		seconds = 30
	}
	http.NewResponseController(w).SetWriteDeadline(time.Time{}) // it takes as long as the client asks for
	if err := pprof.StartCPUProfile(w); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	defer pprof.StopCPUProfile()
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
	case <-r.Context().Done():
	}
}

const profilePath = "/debug/pprof/"

// onLoopback refuses clients that are not on this box: a profile shows parts of the memory.
func onLoopback(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "profiles are for clients on this box: connect to a loopback address", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
