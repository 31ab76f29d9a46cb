// Prints the items of two lists, one a line, until it is told to stop.
//
//   npm install && NATS_URL=nats://127.0.0.1:4222 node subscriber.mjs

import { connect } from "@nats-io/transport-node";

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  name: "subscriber.mjs",
  waitOnFirstConnect: true,
  maxReconnectAttempts: -1, // edged may restart
});

for (const subject of ["events", "readings"]) {
  nc.subscribe(subject, {
    callback: (err, m) => {
      if (err) return console.error(`${subject}: ${err.message}`);
      console.log(m.subject, m.string());
      // With ack = "explicit": m.respond("+ACK");
    },
  });
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => nc.drain());
await nc.closed();
