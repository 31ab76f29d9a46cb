// Worker handles each item of a list at least once, across restarts and crashes of itself, the
// server and Redis. The stream events is a Redis list in edged; the same program consumes a stream
// with this name in a NATS server.
//
//	go run ./worker && NATS_URL=nats://box:4222 go run ./worker
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.Name("worker.go"), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal("connect: ", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal("JetStream: ", err)
	}

	// The server remembers a durable consumer and its acknowledgements.
	consumer, err := js.CreateOrUpdateConsumer(ctx, "events", jetstream.ConsumerConfig{
		Durable:   "worker",
		AckPolicy: jetstream.AckExplicitPolicy,
		AckWait:   10 * time.Second, // after this time an item without an acknowledgement comes again
	})
	if err != nil {
		log.Fatal("consumer: ", err)
	}
	running, err := consumer.Consume(func(m jetstream.Msg) {
		fmt.Printf("%s %s\n", m.Subject(), m.Data()) // the work
		m.Ack()                                      // it is done; m.Nak() asks for the item again
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { log.Print("consume: ", err) }))
	if err != nil {
		log.Fatal("consume: ", err)
	}

	<-ctx.Done()
	running.Drain() // handles the items received so far
	<-running.Closed()
	nc.Flush() // sends the last acknowledgements
}
