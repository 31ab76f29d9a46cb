package daemon

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"edged/internal/poller"
	"edged/internal/uds"
)

// requeueAnswer is a line of requeue: how far it is, then its outcome.
type requeueAnswer struct {
	State    string `json:"state"` // requeueing, then requeued
	Requeued int    `json:"requeued"`
	Total    int    `json:"total"` // to be put back
}

func (a requeueAnswer) Text(w io.Writer) { fmt.Fprintln(w, a.words()) }

func (a requeueAnswer) words() string {
	if a.State == "requeueing" {
		return fmt.Sprintf("%d of %s put back", a.Requeued, counted(a.Total, "dead letter"))
	}
	return counted(a.Requeued, "dead letter") + " put back"
}

// The times to the first line of a requeue and between two of them. A client that has left
// is noticed when a line is sent. socat leaves half a second after the last line if its input has ended.
const (
	requeueFirst = 100 * time.Millisecond
	requeueEvery = 250 * time.Millisecond
)

func (d *daemon) requeue(ctx context.Context, args []string, send func(uds.Answer) error) error {
	n, err := countArg(args, 1)
	if err != nil {
		return err
	}
	key := args[0]
	if !slices.ContainsFunc(d.served.lists(), func(l relayed) bool { return l.Key == key }) {
		return listError(key, poller.ErrNoList)
	}
	return d.putBack(ctx, key, n, requeueFirst, send)
}

// putBack puts up to n dead letters of a list back, and sends how far it is: after the
// duration first, then each requeueEvery. It ends if the client leaves.
func (d *daemon) putBack(ctx context.Context, key string, n int, first time.Duration, send func(uds.Answer) error) (err error) {
	a := requeueAnswer{State: "requeueing"}
	task, next, left := d.tasks.Begin(requeueTask, key, ""), time.Now().Add(first), false
	a.Requeued, err = d.loop.Requeue(ctx, key, n, func(done, total int) error {
		a.Requeued, a.Total = done, total
		now := time.Now()
		if now.Before(next) {
			return nil
		}
		next = now.Add(requeueEvery)
		task.Report(uint64(done), uint64(total), a.words())
		err := send(a)
		left = err != nil
		return err
	})

	a.State = "requeued"
	log := d.log.With(zap.String("list", key), zap.Int("requeued", a.Requeued), zap.Int("of", a.Total))
	switch {
	case left:
		task.Fail(fmt.Sprintf("its client left, %d put back", a.Requeued))
		log.Warn("a requeue was cancelled: its client left")
		return err
	case err != nil:
		task.Fail(fmt.Sprintf("%d put back, then: %v", a.Requeued, err))
		log.Warn("a requeue failed", zap.Error(err))
		return listError(key, err)
	}
	task.Report(uint64(a.Requeued), uint64(a.Requeued), "")
	task.Finish(a.words())
	log.Info("dead letters were put back")
	return send(a)
}
