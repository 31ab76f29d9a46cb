package httpserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"edged/internal/subject"
)

// request is a client's request for a stream.
type request struct {
	patterns []string
	form     form
	id       string    // of the last event that the client has seen; empty: there is none
	all      bool      // without an id: from the oldest item on
	since    time.Time // not zero: from the first item that was seen then
}

// maxPatterns is the most subjects of a request.
const maxPatterns = maxLists

// parseRequest reads a request for a stream. The header takes precedence over the parameter
// last_event_id, because a client that reconnects by itself sends its first URL again.
func parseRequest(r *http.Request, now time.Time) (ask request, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return ask, fmt.Errorf("the query is not valid: %w", err)
	}
	for name := range query {
		if !slices.Contains([]string{"subject", "as", "since", "last_event_id", "lastEventId"}, name) {
			return ask, fmt.Errorf("%q is not a parameter: there are subject, as, since and last_event_id", name)
		}
	}
	if path := r.PathValue("subject"); path != "" {
		ask.patterns = append(ask.patterns, path)
	}
	ask.patterns = append(ask.patterns, query["subject"]...)
	if err := checkPatterns(ask.patterns); err != nil {
		return ask, err
	}

	if name := query.Get("as"); name != "" {
		i := slices.Index(formNames[:], name)
		if i < 0 {
			return ask, fmt.Errorf("as=%q is not a form: there are auto, text, base64 and json", name)
		}
		ask.form = form(i)
	}
	if err := ask.parseSince(query.Get("since"), now); err != nil {
		return ask, err
	}
	for _, name := range []string{"lastEventId", "last_event_id"} {
		if id := query.Get(name); id != "" {
			if _, ok := parsePlaces(id); !ok {
				return ask, fmt.Errorf("%s=%q is not an id of these events, which are <epoch>-<n>", name, id)
			}
			ask.id = id
		}
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		ask.id = id
	}
	return ask, nil
}

func checkPatterns(patterns []string) error {
	switch {
	case len(patterns) == 0:
		return errors.New("name a subject: /events/<subject> or /events?subject=<subject>")
	case len(patterns) > maxPatterns:
		return fmt.Errorf("%d subjects are too many: %d at most", len(patterns), maxPatterns)
	}
	for _, p := range patterns {
		if valid, _ := subject.Valid([]byte(p)); !valid {
			return fmt.Errorf("%q is not a subject", p)
		}
	}
	return nil
}

func (ask *request) parseSince(since string, now time.Time) error {
	if since == "" {
		return nil
	}
	if since == "all" {
		ask.all = true
		return nil
	}

	if back, err := time.ParseDuration(since); err == nil && back > 0 {
		ask.since = now.Add(-back)
		return nil
	}
	at, err := time.Parse(time.RFC3339, since)
	if err != nil || at.Unix() < 0 {
		return fmt.Errorf("since=%q is not a time: write 10m, 2026-11-27T08:00:00Z or all", since)
	}
	ask.since = at
	return nil
}
