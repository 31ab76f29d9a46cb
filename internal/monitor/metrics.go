package monitor

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/VictoriaMetrics/metrics"
)

// MaxConsumers is the maximum number of consumers of a list with labels of their own, in addition
// to those in parentheses.
const MaxConsumers = 64

// Labels that stand for several consumers.
const (
	unnamed = "(unnamed)" // plain subscriptions
	viewers = "(viewers)" // consumers that confirm nothing
	further = "(further)" // those beyond MaxConsumers
)

// Prometheus's types.
const (
	gauge   = "gauge"
	counter = "counter"
)

// family is a metric; value reads it from a snapshot.
type family[T any] struct {
	name, kind, help string
	value            func(T) float64
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var serverFamilies = []family[Server]{
	{"edged_start_time_seconds", gauge, "When the daemon started, in seconds since 1970.", func(s Server) float64 { return float64(s.Start.UnixMilli()) / 1000 }},
	{"edged_draining", gauge, "1 while the daemon drains.", func(s Server) float64 { return bit(s.Draining) }},
	{"edged_faults", gauge, "Faults that the command status shows.", func(s Server) float64 { return float64(s.Faults) }},
	{"edged_log_lines_dropped_total", counter, "Log lines lost because the journal or the reader of standard error did not take them.", func(s Server) float64 { return float64(s.LogDropped) }},
	{"edged_log_lines_repeated_total", counter, "Log lines left out because the same message came too often.", func(s Server) float64 { return float64(s.LogRepeated) }},
	{"edged_clients", gauge, "Clients that are connected.", func(s Server) float64 { return float64(s.Clients) }},
	{"edged_clients_max", gauge, "Clients that may be connected at the same time.", func(s Server) float64 { return float64(s.MaxConnections) }},
	{"edged_subscriptions", gauge, "Subscriptions of the clients that are connected.", func(s Server) float64 { return float64(s.Subscriptions) }},
	{"edged_clients_accepted_total", counter, "Connections that became clients.", func(s Server) float64 { return float64(s.Accepted) }},
	{"edged_clients_refused_total", counter, "Connections refused because there were too many.", func(s Server) float64 { return float64(s.Refused) }},
	{"edged_clients_yielded_total", counter, "Clients cut off before they were authenticated because other connections needed their places.", func(s Server) float64 { return float64(s.Yielded) }},
	{"edged_clients_crowded_total", counter, "Clients refused because too many waited for a password's comparison or a TLS handshake.", func(s Server) float64 { return float64(s.Crowded) }},
	{"edged_clients_abandoned_total", counter, "Clients that left while they waited for a password's comparison or a TLS handshake.", func(s Server) float64 { return float64(s.Abandoned) }},
	{"edged_tls_failures_total", counter, "TLS handshakes that failed.", func(s Server) float64 { return float64(s.TLSFailures) }},
	{"edged_auth_failures_total", counter, "Clients without the right to connect.", func(s Server) float64 { return float64(s.AuthFailures) }},
	{"edged_connect_timeouts_total", counter, "Clients that were not authenticated in time.", func(s Server) float64 { return float64(s.ConnectTimeouts) }},
	{"edged_protocol_errors_total", counter, "Clients disconnected for violating the protocol.", func(s Server) float64 { return float64(s.ProtocolErrors) }},
	{"edged_clients_slow_total", counter, "Clients cut off because more than tcp.max_pending waited for them.", func(s Server) float64 { return float64(s.SlowConsumers) }},
	{"edged_clients_over_memory_total", counter, "Clients cut off because they held the most when tcp.memory was used up.", func(s Server) float64 { return float64(s.OverMemory) }},
	{"edged_clients_stuck_total", counter, "Clients cut off because they did not confirm items in time.", func(s Server) float64 { return float64(s.Stuck) }},
	{"edged_clients_lagged_total", counter, "Clients cut off because they lagged behind other consumers for longer than max_lag.", func(s Server) float64 { return float64(s.Lagged) }},
	{"edged_clients_stale_total", counter, "Clients cut off because they did not answer PING.", func(s Server) float64 { return float64(s.Stale) }},
	{"edged_messages_denied_total", counter, "Messages of clients that were not delivered because their sender had no right to.", func(s Server) float64 { return float64(s.Denied) }},
	{"edged_acks_refused_total", counter, "Acknowledgements of items that the client was never given.", func(s Server) float64 { return float64(s.AcksRefused) }},
	{"edged_messages_received_total", counter, "Messages from clients.", func(s Server) float64 { return float64(s.MessagesIn) }},
	{"edged_messages_sent_total", counter, "Messages to clients, items included.", func(s Server) float64 { return float64(s.MessagesOut) }},
	{"edged_received_bytes_total", counter, "Bytes from clients.", func(s Server) float64 { return float64(s.BytesIn) }},
	{"edged_sent_bytes_total", counter, "Bytes to clients.", func(s Server) float64 { return float64(s.BytesOut) }},
}

var listFamilies = []family[List]{
	{"edged_list_serving", gauge, "1 if this instance serves the list.", func(l List) float64 { return bit(l.Serving) }},
	{"edged_list_failing", gauge, "1 if Redis does not answer for the list.", func(l List) float64 { return bit(l.Failing) }},
	{"edged_list_paused", gauge, "1 if an operator has paused the list.", func(l List) float64 { return bit(l.Paused) }},
	{"edged_list_standby", gauge, "1 if another instance serves the list.", func(l List) float64 { return bit(l.Standby) }},
	{"edged_list_backlog_items", gauge, "Items in Redis that are not finished.", func(l List) float64 { return float64(l.Backlog) }},
	{"edged_list_kept_items", gauge, "Finished items that stay in Redis for a while.", func(l List) float64 { return float64(l.Kept) }},
	{"edged_list_unclaimed_items", gauge, "Items that consumers passed over when they began, and that none owes.", func(l List) float64 { return float64(l.Unclaimed) }},
	{"edged_list_in_flight_items", gauge, "Items taken and not finished.", func(l List) float64 { return float64(l.InFlight) }},
	{"edged_list_owed_items", gauge, "Items in the hands of consumers; one that several have counts as many.", func(l List) float64 { return float64(l.Owed) }},
	{"edged_list_lag_items", gauge, "The largest edged_consumer_lag_items of the list.", func(l List) float64 { return float64(l.LagItems) }},
	{"edged_list_lag_seconds", gauge, "The largest edged_consumer_lag_seconds of the list.", func(l List) float64 { return l.Lag.Seconds() }},
	{"edged_list_oldest_unconfirmed_seconds", gauge, "Age of the oldest item that is in flight.", func(l List) float64 { return l.Oldest.Seconds() }},
	{"edged_list_consumers", gauge, "Consumers of the list.", func(l List) float64 { return float64(len(l.Consumers)) }},
	{"edged_list_members", gauge, "Subscriptions that belong to the list's consumers.", func(l List) float64 { return float64(l.Members) }},
	{"edged_list_taken_items_total", counter, "Items handed to a consumer for the first time.", func(l List) float64 { return float64(l.Taken) }},
	{"edged_list_confirmed_items_total", counter, "Items finished: confirmed, and owed by no consumer.", func(l List) float64 { return float64(l.Confirmed) }},
	{"edged_list_returned_items_total", counter, "Items to be taken again because the place in the list was lost.", func(l List) float64 { return float64(l.Returned) }},
	{"edged_list_dead_items_total", counter, "Items that became dead letters.", func(l List) float64 { return float64(l.Dead) }},
	{"edged_list_gone_items_total", counter, "Items that other programs removed from Redis before they were finished.", func(l List) float64 { return float64(l.Gone) }},
	{"edged_list_redelivered_items_total", counter, "Items handed to the same consumer once more.", func(l List) float64 { return float64(l.Redelivered) }},
	{"edged_list_duplicate_items_total", counter, "Items that repeat an earlier one: confirmed, and not delivered.", func(l List) float64 { return float64(l.Duplicates) }},
}

var consumerFamilies = []family[Consumer]{
	{"edged_consumer_lag_seconds", gauge, "Age of the oldest item that another consumer has confirmed and this one does not have.", func(c Consumer) float64 { return c.Lag.Seconds() }},
	{"edged_consumer_lag_items", gauge, "Items that another consumer has confirmed and this one does not have.", func(c Consumer) float64 { return float64(c.LagItems) }},
	{"edged_consumer_owed_items", gauge, "Items in the consumer's hands that it has not confirmed.", func(c Consumer) float64 { return float64(c.Owed) }},
	{"edged_consumer_oldest_unconfirmed_seconds", gauge, "Age of the oldest item that the consumer has not confirmed.", func(c Consumer) float64 { return c.Oldest.Seconds() }},
	{"edged_consumer_away_seconds", gauge, "Time since the durable consumer was used last; 0 while it is.", func(c Consumer) float64 { return c.Away.Seconds() }},
	{"edged_consumer_missed_items", gauge, "Items that were gone before the consumer got them.", func(c Consumer) float64 { return float64(c.Missed) }},
	{"edged_consumer_clients", gauge, "Clients that are the consumer's.", func(c Consumer) float64 { return float64(c.Clients) }},
}

var inboundFamilies = []family[Inbound]{
	{"edged_inbound_written_items_total", counter, "Items that clients wrote to the list.", func(i Inbound) float64 { return float64(i.Written) }},
	{"edged_inbound_duplicate_items_total", counter, "Items not written because one with the same id was.", func(i Inbound) float64 { return float64(i.Duplicates) }},
	{"edged_inbound_refused_buffer_items_total", counter, "Items refused because the list's share of the buffer was full.", func(i Inbound) float64 { return float64(i.RefusedBuffer) }},
	{"edged_inbound_refused_max_len_items_total", counter, "Items refused because the list had max_len items.", func(i Inbound) float64 { return float64(i.RefusedMaxLen) }},
	{"edged_inbound_refused_redis_items_total", counter, "Items refused because Redis was away or did not take them.", func(i Inbound) float64 { return float64(i.RefusedRedis) }},
	{"edged_inbound_uncertain_items_total", counter, "Items of which Redis's reply was lost.", func(i Inbound) float64 { return float64(i.Uncertain) }},
	{"edged_inbound_waiting_items", gauge, "Items that wait for Redis.", func(i Inbound) float64 { return float64(i.Waiting) }},
	{"edged_inbound_waiting_bytes", gauge, "Bytes of the items that wait for Redis.", func(i Inbound) float64 { return float64(i.WaitingBytes) }},
	{"edged_inbound_failing", gauge, "1 if Redis does not take the list's items.", func(i Inbound) float64 { return bit(i.Failing) }},
	{"edged_inbound_full", gauge, "1 if the list has max_len items and refuses more.", func(i Inbound) float64 { return bit(i.Full) }},
}

var uplinkFamilies = []family[Uplink]{
	{"edged_uplink_up", gauge, "1 if the uplink is connected to its hub.", func(u Uplink) float64 { return bit(u.Up) }},
	{"edged_uplink_paused", gauge, "1 if an operator has paused the uplink.", func(u Uplink) float64 { return bit(u.Paused) }},
	{"edged_uplink_lag_items", gauge, "Items of its lists that the hub has not confirmed.", func(u Uplink) float64 { return float64(u.LagItems) }},
	{"edged_uplink_lag_seconds", gauge, "Age of the oldest item that the hub has not confirmed.", func(u Uplink) float64 { return u.Lag.Seconds() }},
	{"edged_uplink_in_flight_items", gauge, "Items sent to the hub and not confirmed.", func(u Uplink) float64 { return float64(u.InFlight) }},
	{"edged_uplink_sent_items_total", counter, "Items that the hub has confirmed.", func(u Uplink) float64 { return float64(u.Sent) }},
	{"edged_uplink_sent_bytes_total", counter, "Bytes of the items that the hub has confirmed.", func(u Uplink) float64 { return float64(u.Bytes) }},
	{"edged_uplink_skipped_items_total", counter, "Items not stored again because the hub had them.", func(u Uplink) float64 { return float64(u.Skipped) }},
	{"edged_uplink_refused_items_total", counter, "Items that the hub never takes: they became dead letters.", func(u Uplink) float64 { return float64(u.Refused) }},
	{"edged_uplink_breaks_total", counter, "Breaks of the connection to the hub.", func(u Uplink) float64 { return float64(u.Breaks) }},
}

// sample is a snapshot with the labels of its metrics, in braces.
type sample[T any] struct {
	labels string
	of     T
}

// WriteMetrics writes the metrics of the daemon in Prometheus's text format.
func WriteMetrics(w io.Writer, s Server, lists []List, inbound []Inbound, uplinks []Uplink) {
	var (
		listed    []sample[List]
		consumers []sample[Consumer]
		written   []sample[Inbound]
		sent      []sample[Uplink]
	)
	for _, l := range lists {
		list := fmt.Sprintf(`list="%s"`, escape(l.Key))
		listed = append(listed, sample[List]{"{" + list + "}", l})
		for _, c := range merge(l.Consumers) {
			consumers = append(consumers, sample[Consumer]{fmt.Sprintf(`{%s,consumer="%s"}`, list, escape(c.Name)), c})
		}
	}
	for _, in := range byKey(inbound) {
		written = append(written, sample[Inbound]{fmt.Sprintf(`{list="%s"}`, escape(in.Key)), in})
	}

	for _, u := range uplinks {
		sent = append(sent, sample[Uplink]{fmt.Sprintf(`{uplink="%s"}`, escape(u.Name)), u})
	}

	write(w, serverFamilies, []sample[Server]{{"", s}})
	write(w, listFamilies, listed)
	write(w, consumerFamilies, consumers)
	write(w, inboundFamilies, written)
	write(w, uplinkFamilies, sent)
}

// write writes families, each with all its samples. The library can write the type, but only once
// for each sample, which is an error.
func write[T any](w io.Writer, families []family[T], samples []sample[T]) {
	if len(samples) == 0 {
		return
	}

	for _, f := range families {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		for _, s := range samples {
			name, value := f.name+s.labels, f.value(s.of)
			whole := value >= 0 && value < 1<<53 && value == math.Trunc(value)
			switch {
			case f.kind == counter:
				metrics.WriteCounterUint64(w, name, uint64(value))
			case whole:
				metrics.WriteGaugeUint64(w, name, uint64(value))
			default:
				metrics.WriteGaugeFloat64(w, name, value)
			}
		}
	}
}

// escape makes a label's value of a string. The format does not allow invalid UTF-8, so such bytes
// are escaped as in Go: two lists must not get the same label.
func escape(s string) string {
	if !utf8.ValidString(s) {
		quoted := strconv.Quote(s)
		s = quoted[1 : len(quoted)-1]
	}
	return labelEscapes.Replace(s)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// merge sums up the consumers without a name, those with the same name, and those beyond
// MaxConsumers.
func merge(all []Consumer) []Consumer {
	named := make(map[string]Consumer)
	sum := func(name string, c Consumer) {
		t := named[name]
		t.Name = name
		t.Clients, t.Owed, t.LagItems, t.Missed = t.Clients+c.Clients, t.Owed+c.Owed, t.LagItems+c.LagItems, t.Missed+c.Missed
		t.Lag, t.Oldest, t.Away = max(t.Lag, c.Lag), max(t.Oldest, c.Oldest), max(t.Away, c.Away)
		named[name] = t
	}
	for _, c := range all {
		switch {
		case c.Viewer:
			sum(viewers, c)
		case c.Name == "":
			sum(unnamed, c)
		default:
			sum(c.Name, c)
		}
	}

	own := slices.Sorted(maps.Keys(named))
	own = slices.DeleteFunc(own, func(name string) bool { return name == viewers || name == unnamed })
	for _, name := range own[min(len(own), MaxConsumers):] {
		c := named[name]
		delete(named, name)
		sum(further, c)
	}
	return slices.SortedFunc(maps.Values(named), func(a, b Consumer) int { return cmp.Compare(a.Name, b.Name) })
}

// byKey sums up several subjects that write to the same list.
func byKey(all []Inbound) []Inbound {
	lists := make(map[string]Inbound)
	for _, in := range all {
		t := lists[in.Key]
		t.Key, t.Failing, t.Full = in.Key, t.Failing || in.Failing, t.Full || in.Full
		t.Written, t.Duplicates, t.Uncertain = t.Written+in.Written, t.Duplicates+in.Duplicates, t.Uncertain+in.Uncertain
		t.RefusedBuffer, t.RefusedMaxLen, t.RefusedRedis = t.RefusedBuffer+in.RefusedBuffer, t.RefusedMaxLen+in.RefusedMaxLen, t.RefusedRedis+in.RefusedRedis
		t.Waiting, t.WaitingBytes = t.Waiting+in.Waiting, t.WaitingBytes+in.WaitingBytes
		lists[in.Key] = t
	}
	return slices.SortedFunc(maps.Values(lists), func(a, b Inbound) int { return cmp.Compare(a.Key, b.Key) })
}

// serveMetrics answers with the metrics of the daemon and of its process.
func (m *Monitor) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	WriteMetrics(w, m.opts.Server(), m.opts.Lists(), m.opts.Inbound(), m.uplinks())
	metrics.WriteProcessMetrics(w)
}

func (m *Monitor) uplinks() []Uplink {
	if m.opts.Uplinks == nil {
		return nil
	}
	return m.opts.Uplinks()
}
