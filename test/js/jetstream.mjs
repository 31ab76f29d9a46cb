// The official JavaScript client of JetStream with a server, edged or nats-server:
// test/compat runs this file against both, with the address in SERVER, and compares
// the lines that it prints: "saw <scenario>: <observation>". "please push A B" appends
// items to the stream events, which is a Redis list of edged's; "please restart" and
// "please restart Redis" ask for just that.

import { connect } from "@nats-io/transport-node";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

const patience = 60_000; // ms

// attempt bounds one attempt to connect, in ms. The library has no other end for
// an attempt whose server leaves between its INFO and its PONG, as one does that
// is restarted.
const attempt = 5_000;
const minutes = (n) => n * 60e9; // ns

const nc = await connect({
  servers: process.env.SERVER, name: "compat", timeout: attempt, waitOnFirstConnect: true,
  maxReconnectAttempts: -1, reconnectTimeWait: 5, reconnectJitter: 0,
});
const js = jetstream(nc, { timeout: patience });
const jsm = await jetstreamManager(nc, { timeout: patience });

// It acknowledges nothing, so that edged keeps all items too.
await jsm.consumers.add("events", { durable_name: "keeper", ack_policy: AckPolicy.Explicit });

const failure = async (promise) => promise.then(() => "no error", (err) => `${err.name}: ${err.message}`);
const describe = (m) => {
  const { stream, consumer, deliveryCount, streamSequence, deliverySequence } = m.info;
  return `${m.string()} of ${stream}/${consumer}, ${streamSequence}/${deliverySequence}, delivered ${deliveryCount}`;
};
const standing = async (name) => {
  const { delivered, ack_floor, num_ack_pending, num_pending } = await jsm.consumers.info("events", name);
  return [delivered.stream_seq, delivered.consumer_seq, ack_floor.stream_seq, ack_floor.consumer_seq, num_ack_pending, num_pending];
};

const soon = () => new Promise((done) => setTimeout(done, 2));

// push returns when the server knows of the items. It may be waiting for Redis.
let pushed = 0;
async function push(...items) {
  console.log(`please push ${items.join(" ")}`);
  pushed += items.length;
  const last = async () => (await jsm.streams.info("events")).state.last_seq;
  while (await last().catch(() => 0) < pushed) await soon();
}

// worker makes a durable consumer of the items that are pushed from now on.
async function worker(name, config = {}) {
  await add(name, config);
  return js.consumers.get("events", name);
}

function add(name, config) {
  return jsm.consumers.add("events", {
    durable_name: name, ack_policy: AckPolicy.Explicit, deliver_policy: DeliverPolicy.New, ack_wait: minutes(10), ...config,
  });
}

async function take(iterator, n, each = (m) => m.ackAck()) {
  const got = [];
  for await (const m of iterator) {
    await each(m);
    if (got.push(m) === n) break;
  }
  return got;
}

const scenarios = {
  async "the account"() {
    const { streams } = await jsm.getAccountInfo();
    return streams;
  },

  async "streams"() {
    await push("a", "b");
    const { config, state } = await jsm.streams.info("events");
    const names = [];
    for await (const name of await jsm.streams.names()) names.push(name);
    return [config.name, config.subjects, state.messages, state.first_seq, state.last_seq, names.sort(),
      await jsm.streams.find("readings"), await failure(jsm.streams.info("others")), await failure(jsm.streams.find("others"))];
  },

  async "single items"() {
    const m = await jsm.streams.getMessage("events", { seq: 2 });
    const last = await jsm.streams.getMessage("events", { last_by_subj: "events" });
    const direct = await jsm.direct.getMessage("events", { seq: 1 });
    return [m.string(), m.seq, m.subject, last.string(), direct.string(), direct.seq,
      await jsm.streams.getMessage("events", { seq: 99 }), await jsm.direct.getMessage("events", { seq: 99 })];
  },

  async "administering consumers"() {
    const { name, config } = await jsm.consumers.add("events", { durable_name: "made", ack_policy: AckPolicy.Explicit, max_ack_pending: 5 });
    const changed = await jsm.consumers.update("events", "made", { max_ack_pending: 6 });
    const names = [];
    for await (const info of await jsm.consumers.list("events")) names.push(info.name);
    return [name, config.ack_wait, config.max_ack_pending, changed.config.max_ack_pending, names,
      await jsm.consumers.delete("events", "made"), await failure(jsm.consumers.delete("events", "made")),
      await failure(js.consumers.get("events", "made"))];
  },

  async "fetch"() {
    const c = await worker("fetch");
    await push("a", "b", "c");
    const got = await take(await c.fetch({ max_messages: 3, expires: patience }), 3);
    const none = await take(await c.fetch({ max_messages: 3, expires: 1000 }), 3);
    return [got.map(describe), none.length, await standing("fetch")];
  },

  async "next"() {
    const c = await worker("next");
    const none = await c.next({ expires: 1000 });
    const coming = c.next({ expires: patience });
    await push("a");
    const m = await coming;
    return [none, describe(m), await m.ackAck(), await standing("next")];
  },

  async "consume"() {
    const n = 500;
    const c = await worker("consume");
    const items = Array.from({ length: n }, (_, i) => `${i}`);
    const got = take(await c.consume({ max_messages: 50 }), n);
    await push(...items);
    return [(await got).every((m, i) => m.string() === items[i]), await standing("consume")];
  },

  async "consume by a callback"() {
    const c = await worker("callback");
    let messages;
    const got = new Promise(async (resolve) => {
      const all = [];
      messages = await c.consume({ callback: (m) => { m.ack(); if (all.push(m.string()) === 3) resolve(all); } });
    });
    await push("a", "b", "c");
    const all = await got;
    await messages.close();
    return all;
  },

  async "refusing, giving up, working"() {
    const c = await worker("refuse");
    await push("a", "b", "c");
    const [a, b, d] = await take(await c.fetch({ max_messages: 3, expires: patience }), 3, () => {});
    d.working();
    b.term("it is broken");
    a.nak(50);
    const again = await c.next({ expires: patience });
    const saw = [describe(again), again.redelivered, await again.ackAck(), await d.ackAck()];
    return [...saw, await standing("refuse")];
  },

  async "a consumer that is deleted"() {
    const c = await worker("deleted");
    const messages = await c.consume({ abort_on_missing_resource: true });
    const told = (async () => {
      for await (const s of messages.status()) if (s.type === "consumer_deleted") return `${s.code} ${s.description}`;
    })();
    const ended = failure((async () => { for await (const m of messages) m.ack(); })());
    while ((await jsm.consumers.info("events", "deleted")).num_waiting === 0) await soon();
    await jsm.consumers.delete("events", "deleted");
    return [await told, await ended];
  },

  async "an ordered consumer"() {
    const c = await js.consumers.get("events", { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: 2 });
    const got = await take(await c.consume(), 20, () => {});
    const next = await (await js.consumers.get("events")).next({ expires: patience });
    return [got.map((m) => m.seq), next.string()];
  },

  async "a push consumer"() {
    await jsm.consumers.add("events", {
      durable_name: "push", deliver_subject: "work.todo", ack_policy: AckPolicy.Explicit, deliver_policy: DeliverPolicy.New,
      idle_heartbeat: 1e9, flow_control: true,
    });
    const c = await js.consumers.getPushConsumer("events", "push");
    const got = take(await c.consume(), 100);
    await push(...Array(100).fill("x"));
    return [(await got).length, await standing("push")];
  },

  async "an ordered push consumer"() {
    const c = await js.consumers.getPushConsumer("events");
    return (await take(await c.consume(), 30, () => {})).map((m) => m.seq);
  },
};

// The ways in which a program consumes: each calls came with each item until that returns true.
const ways = {
  async consume(name, came) {
    const c = await worker(name, { ack_wait: 2e9 });
    for await (const m of await c.consume({ max_messages: 10, expires: 2000, idle_heartbeat: 500 })) {
      m.ack();
      if (came(m)) break;
    }
  },

  async fetch(name, came) {
    const c = await worker(name, { ack_wait: 2e9 });
    for (;;) {
      try {
        for await (const m of await c.fetch({ max_messages: 10, expires: 1000 })) {
          m.ack();
          if (came(m)) return;
        }
      } catch { // the server is away: the next one goes on
        await soon();
      }
    }
  },

  async next(name, came) {
    const c = await worker(name, { ack_wait: 2e9 });
    for (;;) {
      const m = await c.next({ expires: 1000 }).catch(soon); // the server is away: the next one goes on
      if (!m) continue;
      m.ack();
      if (came(m)) return;
    }
  },

  async push(name, came) {
    await add(name, { ack_wait: 2e9, deliver_subject: `work.${name}`, idle_heartbeat: 5e8 });
    const c = await js.consumers.getPushConsumer("events", name);
    for await (const m of await c.consume()) {
      m.ack();
      if (came(m)) break;
    }
  },

  async ordered(_, came) {
    const c = await js.consumers.get("events", { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: pushed + 1 });
    for await (const m of await c.consume({ max_messages: 10, expires: 2000, idle_heartbeat: 500 })) {
      if (came(m)) break;
    }
  },

  async "ordered push"(_, came) {
    const c = await js.consumers.getPushConsumer("events", { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: pushed + 1 });
    for await (const m of await c.consume()) {
      if (came(m)) break;
    }
  },
};

async function restart() {
  const back = (async () => { for await (const s of nc.status()) if (s.type === "reconnect") return; })();
  console.log("please restart");
  await back;
}

const restartRedis = async () => console.log("please restart Redis");

for (const way of Object.keys(ways)) {
  const name = way.replace(" ", "-");
  // An ordered push consumer asks for heartbeats each 30 s, and looks for a server that has forgotten it after a
  // minute. nats-server remembers it: measured once, 61 s at edged and 0.2 s there.
  if (way !== "ordered push") scenarios[`${way} across a restart`] = () => across(ways[way], `${name}-restarted`, restart);
  scenarios[`${way} across a restart of Redis`] = () => across(ways[way], `${name}-redis-restarted`, restartRedis);
}

// across consumes while a fault happens; each item comes at least once.
async function across(way, name, fault) {
  const n = 200;
  const seen = new Set();
  let begun;
  const beginning = new Promise((resolve) => { begun = resolve; });
  const first = pushed;
  const all = way(name, (m) => {
    seen.add(m.seq);
    if (seen.size === 50) begun();
    return seen.size === n;
  });
  const made = async () => (await failure(jsm.consumers.info("events", name))) === "no error";
  while (!name.startsWith("ordered") && !(await made())) await soon(); // an ordered one knows its first item
  await push(...Array.from({ length: n / 2 }, (_, i) => `${i}`));
  await beginning;
  await fault();
  await push(...Array.from({ length: n / 2 }, (_, i) => `${n / 2 + i}`));
  await all;
  return [seen.size, Math.min(...seen) - first, Math.max(...seen) - first];
}

for (const [name, scenario] of Object.entries(scenarios)) {
  const timer = setTimeout(() => {
    console.error(`gave up waiting: ${name}`);
    process.exit(1);
  }, patience);
  console.log(`saw ${name}: ${JSON.stringify(await scenario())}`);
  clearTimeout(timer);
}
await nc.drain();
