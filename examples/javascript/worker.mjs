// Handles each item of a list at least once, across restarts and crashes of itself,
// the server and Redis. The stream events is a Redis list at edged; the same program
// consumes a stream of this name of a NATS server.
//
//   npm install && NATS_URL=nats://127.0.0.1:4222 node worker.mjs

import { connect, nanos } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  name: "worker.mjs",
  waitOnFirstConnect: true,
  maxReconnectAttempts: -1,
});

// The server remembers a durable consumer and its acknowledgements.
const manager = await jetstreamManager(nc);
await manager.consumers.add("events", {
  durable_name: "worker",
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(10_000), // then an item without an acknowledgement comes again
});
const consumer = await jetstream(nc).consumers.get("events", "worker");
const messages = await consumer.consume();

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => messages.close());
for await (const m of messages) {
  console.log(m.subject, m.string()); // the work
  m.ack(); // it is done; m.nak() asks for the item again
}
await nc.drain(); // sends the last acknowledgements
