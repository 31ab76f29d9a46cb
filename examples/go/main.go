// Subscriber prints the items of two lists, one a line, until it is told to stop.
//
//	go run . && NATS_URL=nats://box:4222 go run .
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
)

func main() {
	closed := make(chan struct{})
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL),
		nats.Name("subscriber.go"),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), // edged may restart
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Print("disconnected: ", err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		log.Fatal("connect: ", err)
	}

	for _, subject := range []string{"events", "readings"} {
		sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
			fmt.Printf("%s %s\n", m.Subject, m.Data)
			// With ack = "explicit": m.Ack()
		})
		if err != nil {
			log.Fatal("subscribe: ", err)
		}
		// nats.go confirms the items that it has queued here, and drops those beyond this limit.
		sub.SetPendingLimits(-1, -1)
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	nc.Drain() // prints the items received so far, then closes
	<-closed
}
