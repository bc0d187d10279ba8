// Runs the scenarios of one file at once, each over a connection of its own, and prints one JSON line for each:
// `{"name": …, "result": …}`, or `"failed"` instead. `node run.cjs AREA SERVERS`, where SERVERS is JSON. What is observed must
// not hold anything random: it is compared with what another server does.

const { connect, createInbox, headers, nanos } = require("@nats-io/transport-node");
const { jetstream, jetstreamManager } = require("@nats-io/jetstream");

const BOUND_MS = 20_000;

const [area, given] = process.argv.slice(2);
const servers = JSON.parse(given);

/** What every scenario is given. */
class Test {
  constructor(nc, js, jsm) {
    Object.assign(this, { nc, js, jsm, servers });
  }

  /** A stream of a name, with the subjects below it in lower case. */
  stream(name, config = {}) {
    return this.jsm.streams.add({ name, subjects: [`${name.toLowerCase()}.>`], ...config });
  }

  /** Publishes `1`, `2`, … to subjects below the stream's. */
  async publish(name, ...subjects) {
    for (const [at, subject] of subjects.entries()) {
      await this.js.publish(`${name.toLowerCase()}.${subject}`, `${at + 1}`);
    }
  }

  async request(subject, body = "") {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return (await this.nc.request(subject, text, { timeout: 5000 })).json();
  }

  /** A pull request as bytes: what comes until a status other than 100 or until `want` messages are there. */
  async pull(stream, consumer, request, want = request.batch ?? 1) {
    const inbox = createInbox();
    const sub = this.nc.subscribe(inbox);
    this.nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer}`, JSON.stringify(request), { reply: inbox });
    const messages = [];
    const seen = [];
    for await (const message of sub) {
      seen.push(shown(message));
      const status = message.headers?.code ?? 0;
      if (status === 0) messages.push(message);
      if ((status !== 0 && status !== 100) || messages.length >= want) break;
    }
    return { seen, messages };
  }

  async consumer(stream, name) {
    return counts(await this.jsm.consumers.info(stream, name));
  }

  /** What is asked for, once it is as it should be. */
  until(ask, holds) {
    return until(ask, holds);
  }
}

async function until(ask, holds) {
  const end = Date.now() + BOUND_MS / 2;
  for (;;) {
    const value = await ask();
    if (holds(value)) return value;
    if (Date.now() > end) throw new Error(`waited in vain, last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** `subject payload @stream/consumer xdelivered +pending`, or a status with its headers. */
function shown(message) {
  const status = message.headers?.code ?? 0;
  if (status !== 0) {
    const more = message.headers.keys().filter((key) => !["Status", "Description"].includes(key)).sort();
    return [`${status} ${message.headers.description}`, ...more.map((key) => `${key}: ${message.headers.get(key)}`)].join("; ");
  }
  const tokens = (message.reply ?? "").split(".");
  if (tokens[1] !== "ACK") return `${message.subject} ${message.string()}`;
  const [delivered, stream, consumer, , pending] = tokens.slice(-5);
  return `${message.subject} ${message.string()} @${stream}/${consumer} x${delivered} +${pending}`;
}

/** Of an error what the server has said, or else its kind and words. */
async function caught(promise) {
  try {
    const value = await promise;
    return { ok: value === undefined ? null : value };
  } catch (error) {
    return told(error);
  }
}

function told(error) {
  if (typeof error.apiError === "function") {
    return words(error.apiError());
  }
  return { error: error.constructor.name, text: error.message };
}

/** Of an error of the API what does not depend on the library that reads JSON. */
function words({ code, err_code, description }) {
  return { code, err_code, description: description.startsWith("invalid JSON") ? "invalid JSON" : description };
}

/** Without what a server adds by its version. */
function config(info) {
  const { metadata, ...rest } = info.config;
  const own = Object.fromEntries(Object.entries(metadata ?? {}).filter(([key]) => !key.startsWith("_nats.")));
  return Object.keys(own).length > 0 ? { ...rest, metadata: own } : rest;
}

function state(info) {
  const { messages, first_seq, last_seq, num_deleted, deleted, num_subjects, subjects, consumer_count } = info.state;
  return { messages, first_seq, last_seq, num_deleted, deleted, num_subjects, subjects, consumer_count };
}

function counts(info) {
  const { delivered, ack_floor, num_ack_pending, num_redelivered, num_waiting, num_pending, push_bound, paused } = info;
  const pair = ({ consumer_seq, stream_seq }) => `${consumer_seq}/${stream_seq}`;
  return {
    delivered: pair(delivered), ack_floor: pair(ack_floor), num_ack_pending, num_redelivered, num_waiting, num_pending,
    push_bound, paused,
  };
}

/** Headers as a list of lines; of a time only that it is one. */
function lines(held) {
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
  return (held?.keys() ?? []).sort().flatMap((key) => held.values(key).map((value) => `${key}: ${value.replace(time, "TIME")}`));
}

/** The first so many of what is iterated. */
async function take(iterable, count) {
  const taken = [];
  if (count === 0) return taken;
  for await (const item of iterable) {
    taken.push(item);
    if (taken.length === count) break;
  }
  return taken;
}

async function all(iterable) {
  return take(iterable, Infinity);
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took too long`)), BOUND_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function one(name, scenario) {
  const nc = await connect({ servers: servers.plain, reconnect: false });
  try {
    const test = new Test(nc, jetstream(nc), await jetstreamManager(nc, { checkAPI: false }));
    console.log(JSON.stringify({ name, result: (await within(scenario(test), name)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ name, failed: `${error.stack}` }));
  } finally {
    await nc.close();
  }
}

module.exports = { all, caught, config, connect, counts, createInbox, headers, lines, nanos, shown, state, take, told, until, words };

const scenarios = require(`./${area}.cjs`);
const only = servers.only ?? Object.keys(scenarios);
Promise.all(only.map((name) => one(name, scenarios[name]))).then(() => process.exit(0));
