// Scenarios of the official JavaScript client with edged. A Go test runs this file,
// with the address in EDGED; the list events has `items` items. It prints
// "ok <scenario>" for each scenario that went well and ends with code 0 if all
// did. After "ready for lame duck mode" it waits for the daemon to drain.

import assert from "node:assert/strict";
import { connect, headers, NoRespondersError, RequestError } from "@nats-io/transport-node";

const items = 5000;
const patience = 60_000; // ms

const nc = await connect({ servers: process.env.EDGED, name: "scenarios", reconnect: false });
const other = await connect({ servers: process.env.EDGED, name: "other", reconnect: false });

// collect returns a subscription and the payloads that it gets until it ends.
async function collect(connection, subject, options = {}) {
  const sub = connection.subscribe(subject, options);
  const got = (async () => {
    const payloads = [];
    for await (const m of sub) payloads.push(m.string());
    return payloads;
  })();
  await connection.flush();
  return { sub, got };
}

// ended ends a subscription when it has all that was sent so far.
async function ended({ sub, got }) {
  await sub.drain();
  return got;
}

async function send(subject, ...payloads) {
  for (const p of payloads) other.publish(subject, p);
  await other.flush();
}

const scenarios = {
  async "plain and wildcard subscriptions get what others publish"() {
    const plain = await collect(nc, "room.door");
    const star = await collect(nc, "room.*");
    const tail = await collect(nc, "room.>");
    await send("room.door", "open");
    await send("room.window", "shut");
    await send("room.door.lock", "locked");
    assert.deepEqual(await ended(plain), ["open"]);
    assert.deepEqual(await ended(star), ["open", "shut"]);
    assert.deepEqual(await ended(tail), ["open", "shut", "locked"]);
  },

  async "a queue group shares messages"() {
    const a = await collect(nc, "jobs", { queue: "workers" });
    const b = await collect(other, "jobs", { queue: "workers" });
    const jobs = Array.from({ length: 100 }, (_, i) => `${i}`);
    await send("jobs", ...jobs);
    const done = [await ended(a), await ended(b)];
    assert.ok(done[0].length > 0 && done[1].length > 0, `${done[0].length} and ${done[1].length} jobs`);
    assert.deepEqual(done.flat().sort(), jobs.sort());
  },

  async "a subscription ends after max messages"() {
    const { got } = await collect(nc, "news", { max: 3 });
    await send("news", "0", "1", "2", "3", "4");
    assert.deepEqual(await got, ["0", "1", "2"]);
  },

  async "requests are answered"() {
    nc.subscribe("double", { max: 1, callback: (_, m) => m.respond(m.string() + m.string()) });
    await nc.flush();
    assert.equal((await other.request("double", "ab", { timeout: patience })).string(), "abab");
    assert.equal((await other.request("edged.echo", "ab", { timeout: patience })).string(), "ab");
  },

  async "a request to nobody fails at once"() {
    await assert.rejects(nc.request("nobody", "", { timeout: patience }),
      (err) => err instanceof NoRespondersError || (err instanceof RequestError && err.isNoResponders()));
  },

  async "headers arrive"() {
    const sub = nc.subscribe("with.headers", { max: 1 });
    await nc.flush();
    const h = headers();
    h.append("Unit", "°C");
    h.append("Unit", "°F");
    other.publish("with.headers", "21\r\n", { headers: h });
    for await (const m of sub) {
      assert.deepEqual(m.headers.values("Unit"), ["°C", "°F"]);
      assert.equal(m.string(), "21\r\n");
    }
  },

  async "publishing to a list's subject is refused and the connection goes on"() {
    const refused = (async () => {
      for await (const s of other.status()) if (s.type === "error") return s.error;
    })();
    await send("events", "forged");
    assert.match((await refused).message, /permissions violation/i);
    await other.flush();
  },

  async "the items of a list arrive in order"() {
    const want = Array.from({ length: items }, (_, i) => `${i}`);
    const payloads = [];
    // Unsubscribing would take back the unconfirmed items.
    await new Promise((done) => nc.subscribe("events", {
      callback: (_, m) => { if (payloads.push(m.string()) === items) done(); },
    }));
    assert.deepEqual(payloads, want);
  },

  async "clients are told of lame duck mode, and drain"() {
    const told = [nc, other].map(async (c) => {
      for await (const s of c.status()) if (s.type === "ldm") return;
      assert.fail("not told");
    });
    console.log("ready for lame duck mode");
    await Promise.all(told);
    await Promise.all([nc.drain(), other.drain()]);
  },
};

for (const [name, scenario] of Object.entries(scenarios)) {
  const timer = setTimeout(() => {
    console.error(`gave up waiting: ${name}`);
    process.exit(1);
  }, patience);
  try {
    await scenario();
  } catch (err) {
    console.error(`${name}: ${err.stack}`);
    process.exit(1);
  }
  clearTimeout(timer);
  console.log(`ok ${name}`);
}
