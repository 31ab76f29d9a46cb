package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"edged/internal/config"
	"edged/internal/poller"
	"edged/internal/uds"
)

type peekedItem struct {
	Size int    `json:"size"` // bytes
	Item string `json:"item"` // quoted as in Go, cut behind shownBytes
}

type peekAnswer struct {
	Total int64        `json:"total"`
	Items []peekedItem `json:"items"`
}

func (a peekAnswer) Text(w io.Writer) {
	for i, item := range a.Items {
		wrap(w, fmt.Sprintf("%d  %s: ", i+1, size(item.Size)), item.Item)
	}
	fmt.Fprintf(w, "%s in Redis\n", counted(int(a.Total), "item"))
}

// peek shows the items at the head of a list, 10 unless told.
func (d *daemon) peek(ctx context.Context, args []string) (uds.Answer, error) {
	n := 10
	if len(args) > 1 {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil || n < 1 {
			return nil, uds.Errorf(uds.BadArgument, "%q is no number of items; write 1 to %d", args[1], shownLetters)
		}
	}
	h, err := d.loop.History(ctx, args[0], poller.From{Waiting: true}, min(n, shownLetters), shownBytes)
	if err != nil {
		return nil, listError(args[0], err)
	}
	a := peekAnswer{Total: max(0, h.Length-int64(h.Floor-h.First)), Items: []peekedItem{}}
	for _, item := range h.Items {
		a.Items = append(a.Items, peekedItem{item.Size, quoted(item.Head, item.Size)})
	}
	return a, nil
}

// quoted is the beginning of a payload, with a mark where there is more.
func quoted(head []byte, size int) string {
	shown := head[:min(len(head), shownBytes)]
	text := strconv.Quote(string(shown))
	if size > len(shown) {
		text += "…"
	}
	return text
}

// size is a number of bytes in words.
func size(n int) string {
	units := []string{"KiB", "MiB", "GiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

type configAnswer struct {
	Settings []config.Setting `json:"settings"`
}

// settings are those in force: what reload has changed is in them.
func (d *daemon) settings() configAnswer {
	return configAnswer{d.served.config().Settings()}
}

func (a configAnswer) Text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range a.Settings {
		// What JSON makes of a value is what one writes in a file.
		value, err := json.Marshal(s.Value)
		if err != nil {
			value = []byte(err.Error())
		}
		fmt.Fprintf(t, "%s\t= %s\t# %s\n", s.Key, value, printable(s.Origin))
	}
	t.Flush()
}
