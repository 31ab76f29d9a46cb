package daemon

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"edged/internal/poller"
	"edged/internal/uds"
)

// historyItem is an item that Redis has.
type historyItem struct {
	ID    string     `json:"id"`             // <epoch>-<number>
	State string     `json:"state"`          // kept or waiting
	Seen  *time.Time `json:"seen,omitempty"` // first, by edged
	Size  int        `json:"size"`           // bytes
	Item  string     `json:"item"`           // quoted as in Go, cut behind shownBytes
}

type historyAnswer struct {
	Kept    int64         `json:"kept"`    // items that are finished
	Waiting int64         `json:"waiting"` // all others
	Oldest  string        `json:"oldest"`  // the ID of the head; empty: the list is
	Missed  uint64        `json:"missed"`  // items that were asked for, and are not in Redis any more
	Items   []historyItem `json:"items"`
}

func (a historyAnswer) Text(w io.Writer) {
	if a.Missed > 0 {
		fmt.Fprintf(w, "%s before these: not in Redis any more\n", counted(int(a.Missed), "item"))
	}
	for _, item := range a.Items {
		seen := "-"
		if item.Seen != nil {
			seen = item.Seen.Local().Format(zoned)
		}
		wrap(w, item.ID+"  ", fmt.Sprintf("%s  %s  %s: %s", seen, item.State, size(item.Size), item.Item))
	}
	fmt.Fprintf(w, "%s kept, %d waiting", counted(int(a.Kept), "item"), a.Waiting)
	if a.Oldest != "" {
		fmt.Fprintf(w, ", the oldest is %s", a.Oldest)
	}
	fmt.Fprintln(w)
}

// history shows items that Redis has of a list: the oldest ones, or those from an ID or
// from a time on.
func (d *daemon) history(ctx context.Context, args []string) (uds.Answer, error) {
	from, epoch, n, err := parseHistory(args[1:], time.Now())
	if err != nil {
		return nil, err
	}
	h, err := d.loop.History(ctx, args[0], from, n, shownBytes)
	if err != nil {
		return nil, listError(args[0], err)
	}
	if epoch != "" && epoch != h.Epoch {
		return nil, uds.Errorf(uds.BadArgument, "%s is of another epoch than the list, whose items have the IDs %s-N now: use the number alone, or since", epoch, h.Epoch)
	}

	kept := int64(min(h.Floor-h.First, uint64(h.Length)))
	a := historyAnswer{Kept: kept, Waiting: h.Length - kept, Items: []historyItem{}}
	if h.Length > 0 {
		a.Oldest = itemID(h.Epoch, h.First)
	}
	if from.Since.IsZero() && from.Number > 0 && from.Number < h.First {
		a.Missed = h.First - from.Number
	}
	for _, p := range h.Items {
		item := historyItem{ID: itemID(h.Epoch, p.Number), State: "waiting", Size: p.Size, Item: quoted(p.Head, p.Size)}
		if p.Number < h.Floor {
			item.State = "kept"
		}
		if !p.Seen.IsZero() {
			item.Seen = &p.Seen
		}
		a.Items = append(a.Items, item)
	}
	return a, nil
}

// itemID is an item's ID; without a ledger there is no epoch yet.
func itemID(epoch string, n uint64) string {
	if epoch == "" {
		return strconv.FormatUint(n, 10)
	}
	return fmt.Sprintf("%s-%d", epoch, n)
}

// parseHistory reads [from ID | since TIME] [N]. An ID is a number, or <epoch>-<number>.
func parseHistory(args []string, now time.Time) (from poller.From, epoch string, n int, err error) {
	n = 10
	if len(args) >= 2 && (args[0] == "from" || args[0] == "since") {
		if args[0] == "from" {
			epoch, from.Number, err = parseID(args[1])
		} else {
			from.Since, err = parseTime(args[1], now)
		}
		args = args[2:]
	}
	if err == nil && len(args) > 0 {
		n, err = strconv.Atoi(args[0])
		if err != nil || n < 1 || len(args) > 1 {
			err = uds.Errorf(uds.BadArgument, "%q: write from ID or since TIME, and then a number of items, 1 to %d",
				strings.Join(args, " "), shownLetters)
		}
	}
	return from, epoch, min(n, shownLetters), err
}

func parseID(text string) (epoch string, n uint64, err error) {
	digits := text
	if i := strings.LastIndexByte(text, '-'); i >= 0 {
		epoch, digits = text[:i], text[i+1:]
	}
	if n, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return "", 0, uds.Errorf(uds.BadArgument, "%q is no ID of an item: write its number, or EPOCH-NUMBER as history shows it", text)
	}
	return epoch, n, nil
}

// parseTime reads a time as RFC 3339 has it, a time of today such as 15:04, or how long
// ago it was, such as 10m.
func parseTime(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, uds.Errorf(uds.BadArgument, "%q is no time: write 10m for ten minutes ago, 15:04, or 2006-01-02T15:04:05Z", text)
}
