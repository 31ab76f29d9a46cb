// Scenarios of the official JavaScript client with a server, edged or nats-server:
// test/compat runs this file against both, with the address in SERVER, and
// compares the output: "saw <scenario>: <observation>". "please restart" and
// "please go" ask for a restart of the server, and that it sends its clients away.

import { connect, createInbox, headers } from "@nats-io/transport-node";

const patience = 60_000; // ms

// attempt bounds one attempt to connect, in ms. The library has no other end for
// an attempt whose server leaves between its INFO and its PONG, as one does that
// is restarted.
const attempt = 5_000;

const options = {
  servers: process.env.SERVER, name: "compat", timeout: attempt, waitOnFirstConnect: true,
  maxReconnectAttempts: -1, reconnectTimeWait: 5, reconnectJitter: 0,
};
const nc = await connect(options);
const other = await connect(options);

// collect subscribes; its answer unsubscribes, and returns the messages received so far.
async function collect(connection, subject, opts = {}) {
  const payloads = [];
  const sub = connection.subscribe(subject, { ...opts, callback: (err, m) => payloads.push(err ?? m.string()) });
  await connection.flush();
  return async () => {
    await connection.flush();
    sub.unsubscribe();
    return payloads;
  };
}

async function send(subject, ...payloads) {
  for (const p of payloads) other.publish(subject, p);
  await other.flush();
}

// status waits for the connection to say that something happened.
async function status(connection, type) {
  for await (const s of connection.status()) if (s.type === type) return s;
  throw new Error(`closed before ${type}`);
}

const failure = async (promise) => promise.then(() => "no error", (err) => `${err.name}: ${err.message}`);

const scenarios = {
  async "the server's introduction"() {
    const { headers, max_payload, auth_required, tls_required, jetstream, proto } = nc.info;
    return { headers, max_payload, auth_required, tls_required, jetstream, proto };
  },

  async "plain and wildcards"() {
    const patterns = ["room.door", "room.*", "room.>", "*.door", ">"];
    const got = [];
    for (const p of patterns) got.push(await collect(nc, p));
    await send("room.door", "open");
    await send("room.window", "");
    await send("room.door.lock", "locked");
    return Promise.all(got.map((g) => g()));
  },

  async "queue group"() {
    const a = await collect(nc, "jobs", { queue: "workers" });
    const b = await collect(other, "jobs", { queue: "workers" });
    await send("jobs", ...Array(100).fill("x"));
    const [first, second] = [await a(), await b()];
    return [first.length + second.length, first.length > 0 && second.length > 0];
  },

  async "max messages"() {
    const got = await collect(nc, "few", { max: 2 });
    await send("few", "1", "2", "3");
    return got();
  },

  async "requests"() {
    const service = nc.subscribe("echo", { callback: (_, m) => m.respond(m.data) });
    await nc.flush();
    const answer = (await other.request("echo", "hello", { timeout: patience })).string();
    const separate = (await other.request("echo", "alone", { timeout: patience, noMux: true, reply: createInbox() })).string();
    service.unsubscribe();
    return [answer, separate];
  },

  async "request many"() {
    const services = [nc, nc, nc].map((c, i) => c.subscribe("roll.call", { callback: (_, m) => m.respond(`${i}`) }));
    await nc.flush();
    const answers = [];
    for await (const m of await other.requestMany("roll.call", "", { strategy: "count", maxMessages: 3, maxWait: patience })) {
      answers.push(m.string());
    }
    for (const s of services) s.unsubscribe();
    return answers.sort();
  },

  async "no responders"() {
    const many = async () => {
      for await (const m of await nc.requestMany("nobody", "", { maxWait: patience })) return m.string();
      return "no answers";
    };
    return [
      await failure(nc.request("nobody", "", { timeout: patience })),
      await failure(nc.request("nobody", "", { timeout: patience, noMux: true, reply: createInbox() })),
      await many().catch((err) => err.name),
    ];
  },

  async "headers"() {
    const came = new Promise((resolve) => nc.subscribe("with.headers", { max: 1, callback: (_, m) => resolve(m) }));
    await nc.flush();
    const h = headers();
    h.append("Unit", "°C");
    h.append("Unit", "°F");
    other.publish("with.headers", "21\r\n", { headers: h, reply: "answers" });
    const m = await came;
    return [m.headers.values("Unit"), m.string(), m.reply];
  },

  async "no echo"() {
    const deaf = await connect({ ...options, noEcho: true });
    const got = await collect(deaf, "news");
    deaf.publish("news", "mine");
    await deaf.flush();
    await send("news", "theirs");
    const payloads = await got();
    await deaf.close();
    return payloads;
  },

  async "verbose and pedantic"() {
    const strict = await connect({ ...options, verbose: true, pedantic: true });
    const got = await collect(strict, "news");
    await send("news", "a");
    const payloads = await got();
    await strict.close();
    return payloads;
  },

  async "too large a message"() {
    return failure((async () => nc.publish("news", new Uint8Array(nc.info.max_payload + 1)))());
  },

  async "drain"() {
    const leaver = await connect(options);
    let count = 0;
    leaver.subscribe("news", { callback: () => count++ });
    await leaver.flush();
    await send("news", ...Array(1000).fill("x"));
    await leaver.drain();
    return [count, leaver.isClosed()];
  },

  async "a rapid fire of flushes"() {
    const got = await collect(nc, "ticks");
    for (let i = 0; i < 200; i++) await send("ticks", `${i}`);
    return (await got()).length;
  },

  async "reconnect"() {
    const plain = await collect(nc, "news.*");
    const member = await collect(nc, "jobs", { queue: "workers" });
    const back = [status(nc, "reconnect"), status(other, "reconnect")];
    console.log("please restart");
    await Promise.all(back);
    await nc.flush();
    await send("news.today", "a");
    await send("jobs", "b");
    return [await plain(), await member()];
  },

  async "lame duck"() {
    const told = [status(nc, "ldm"), status(other, "ldm")];
    console.log("please go");
    await Promise.all(told);
    const got = await collect(nc, "news");
    await send("news", "still here");
    return got();
  },
};

for (const [name, scenario] of Object.entries(scenarios)) {
  const timer = setTimeout(() => {
    console.error(`gave up waiting: ${name}`);
    process.exit(1);
  }, patience);
  console.log(`saw ${name}: ${JSON.stringify(await scenario())}`);
  clearTimeout(timer);
}
await Promise.all([nc.drain(), other.drain()]);
