// Consumers as nats.js manages and uses them: their life, pulls, acks, redelivery, where they begin, what they filter, pushes.

const { all, caught, config, counts, createInbox, headers, lines, nanos, shown, take, words } = require("./run.cjs");

const add = ({ jsm }, stream, options) => jsm.consumers.add(stream, { ack_policy: "explicit", ...options });

/** Five messages and a consumer. */
async function ready(test, name, options = {}) {
  await test.stream(name);
  await test.publish(name, "a", "b", "a", "c", "a");
  await add(test, name, { durable_name: "c", ...options });
}

/** One event of a kind about a stream, without what is random in it. */
async function advisory(test, kind, stream, act) {
  const sub = test.nc.subscribe(`$JS.EVENT.ADVISORY.CONSUMER.${kind}.${stream}.>`);
  await test.nc.flush();
  const result = await act();
  const [event] = await take(sub, 1);
  const { id, timestamp, ...rest } = event.json();
  return { result, subject: event.subject, named: [typeof id, typeof timestamp], event: rest };
}

module.exports = {
  async a_consumer_lives(test) {
    const { jsm } = test;
    await test.stream("LIFE");
    await test.publish("LIFE", "a", "b");
    const made = await jsm.consumers.add("LIFE", { durable_name: "one", ack_policy: "explicit", description: "d", metadata: { a: "b" } });
    const ephemeral = await jsm.consumers.add("LIFE", {});
    const named = await jsm.consumers.add("LIFE", { name: "two", ack_policy: "all", inactive_threshold: nanos(60_000), mem_storage: true });
    const again = await caught(jsm.consumers.add("LIFE", { durable_name: "one", ack_policy: "explicit", description: "d", metadata: { a: "b" } }).then(config));
    const updated = await jsm.consumers.update("LIFE", "one", { description: "new", max_ack_pending: 7, filter_subject: "life.b" });
    const info = await jsm.consumers.info("LIFE", "one");
    const listed = (await all(jsm.consumers.list("LIFE"))).map(({ name }) => (name === ephemeral.name ? "EPHEMERAL" : name)).sort();
    const { consumers, ...names } = await test.request("$JS.API.CONSUMER.NAMES.LIFE");
    const removed = await jsm.consumers.delete("LIFE", "one");
    const gone = [await caught(jsm.consumers.info("LIFE", "one")), await caught(jsm.consumers.delete("LIFE", "one")), await caught(jsm.consumers.info("LIFE_NOT", "one"))];
    return {
      made: [config(made), counts(made)], ephemeral: [config(ephemeral), counts(ephemeral)], named: config(named), again, updated: config(updated),
      info: [config(info), counts(info)], listed, names, named_count: consumers?.length ?? null, removed, gone,
    };
  },

  async every_field_of_a_config_is_kept(test) {
    await test.stream("FIELDS");
    const made = await add(test, "FIELDS", {
      durable_name: "c", deliver_policy: "by_start_sequence", opt_start_seq: 3, ack_wait: nanos(5000), max_deliver: 4, backoff: [nanos(100), nanos(2000)],
      filter_subjects: ["fields.a", "fields.b.>"], replay_policy: "original", sample_freq: "50%", max_waiting: 9, max_ack_pending: 11, headers_only: true, max_batch: 13,
      max_expires: nanos(14_000), max_bytes: 1500, inactive_threshold: nanos(100_000), num_replicas: 1, mem_storage: true, metadata: { k: "v" },
    });
    return config(made);
  },

  async wrong_consumers_are_refused(test) {
    await test.stream("WRONG");
    const tries = [
      { durable_name: "a.b", ack_policy: "explicit" }, { durable_name: "c1", ack_policy: "nothing" }, { durable_name: "c2", deliver_policy: "by_start_sequence" },
      { durable_name: "c3", deliver_policy: "all", opt_start_seq: 3 }, { durable_name: "c4", deliver_policy: "by_start_time" }, { durable_name: "c5", filter_subject: "other.x" },
      { durable_name: "c6", filter_subject: "wrong.a", filter_subjects: ["wrong.b"] }, { durable_name: "c7", filter_subjects: ["wrong.>", "wrong.a"] },
      { durable_name: "c8", filter_subjects: [""] }, { durable_name: "c9", max_deliver: 1, backoff: [1000, 2000] }, { durable_name: "c10", max_waiting: -1 },
      { durable_name: "c11", deliver_policy: "last_per_subject" }, { durable_name: "c12", idle_heartbeat: 1000 }, { durable_name: "c13", flow_control: true },
      { durable_name: "c14", rate_limit_bps: 1000 }, { durable_name: "c15", max_batch: -1 }, { durable_name: "c16", name: "other" }, { durable_name: "c17", ack_policy: "none", max_ack_pending: 5 },
      { durable_name: "c18", deliver_subject: "wrong.x" }, { durable_name: "c19", num_replicas: 3 }, { durable_name: "c20", max_expires: 10 }, { durable_name: "c21", sample_freq: "x" },
      { durable_name: "c22", deliver_policy: "new", opt_start_time: "2020-01-01T00:00:00Z" }, { durable_name: "c23", ack_wait: -5 }, { durable_name: "c24", deliver_group: "q" },
      { durable_name: "c25", inactive_threshold: -1 }, { durable_name: "c26", deliver_subject: "x", max_waiting: 5 }, { durable_name: "c27", backoff: [nanos(1), nanos(5)], max_deliver: 3 },
      { durable_name: "c28", description: "x".repeat(5000) }, { durable_name: "c29", filter_subject: "wrong.a b" }, { durable_name: "c30", deliver_subject: "x", max_bytes: 5 },
    ];
    const seen = [];
    for (const config of tries) {
      const name = config.durable_name;
      const answer = await test.request(`$JS.API.CONSUMER.DURABLE.CREATE.WRONG.${name === "a.b" ? "ab" : name}`, { stream_name: "WRONG", config: { ack_policy: "explicit", ...config } });
      seen.push([name, answer.error ? words(answer.error) : "made"]);
    }
    for (const [subject, request] of [
      ["CREATE.WRONG.x", { stream_name: "OTHER", config: { name: "x" } }], ["CREATE.WRONG.x", { stream_name: "WRONG", config: { name: "y" } }],
      ["CREATE.WRONG.x", "{"], ["CREATE.WRONG.x", ""], ["CREATE.WRONG.x.wrong.a", { stream_name: "WRONG", config: { name: "x", filter_subject: "wrong.b" } }],
      ["CREATE.WRONG_NOT.x", { stream_name: "WRONG_NOT", config: { name: "x" } }], ["CREATE.WRONG.u", { stream_name: "WRONG", action: "update", config: { name: "u" } }],
      ["CREATE.WRONG.n", { stream_name: "WRONG", action: "create", config: { name: "n", ack_policy: "explicit" } }],
      ["CREATE.WRONG.n", { stream_name: "WRONG", action: "create", config: { name: "n", ack_policy: "all" } }],
      ["CREATE.WRONG.n", { stream_name: "WRONG", action: "update", config: { name: "n", ack_policy: "all" } }],
      ["CREATE.WRONG.n", { stream_name: "WRONG", action: "update", config: { name: "n", ack_policy: "explicit", deliver_policy: "new" } }],
    ]) {
      const answer = await test.request(`$JS.API.CONSUMER.${subject}`, request);
      seen.push([subject, answer.error ? words(answer.error) : "made"]);
    }
    return seen;
  },

  async next_fetch_and_consume_give_messages(test) {
    await ready(test, "WAYS");
    const consumer = await test.js.consumers.get("WAYS", "c");
    const first = await consumer.next({ expires: 2000 });
    const said = [[first.seq, first.string(), first.info.pending, first.redelivered], await first.ackAck()];
    const two = await all(await consumer.fetch({ max_messages: 2, expires: 2000 }));
    for (const message of two) said.push([message.seq, await message.ackAck()]);
    const iterated = await consumer.consume({ max_messages: 10, expires: 2000 });
    for await (const message of iterated) {
      said.push([message.seq, message.subject, await message.ackAck()]);
      if (message.info.pending === 0) break;
    }
    await iterated.close();
    const bytes = await all(await consumer.fetch({ max_bytes: 1000, expires: 1000 }));
    return [said, bytes.length, await caught(consumer.next({ expires: 1000 })), (await test.consumer("WAYS", "c")).ack_floor];
  },

  async a_pull_ends_as_it_was_asked_to(test) {
    await ready(test, "PULL");
    const body = "x".repeat(200);
    const seen = [];
    for (const request of [{ batch: 2 }, { batch: 10, no_wait: true }, { batch: 1, no_wait: true }, { batch: 3, expires: nanos(100) }, { no_wait: true, expires: nanos(100), batch: 1 }]) {
      seen.push([request, (await test.pull("PULL", "c", request)).seen]);
    }
    for (const text of [body, body, body]) await test.js.publish("pull.big", text);
    await test.until(() => test.consumer("PULL", "c"), ({ num_pending }) => num_pending === 3);
    const bytes = await test.pull("PULL", "c", { batch: 10, max_bytes: 700, expires: nanos(200) });
    seen.push(bytes.seen.map((line) => line.replace(body, "BODY")));
    seen.push((await test.pull("PULL", "c", { batch: 10, max_bytes: 20, expires: nanos(200) })).seen);
    const beats = await test.pull("PULL", "c", { batch: 5, expires: nanos(500), idle_heartbeat: nanos(200) });
    seen.push([...new Set(beats.seen)].map((line) => line.replace(body, "BODY")));
    for (const request of [{ batch: 1, expires: nanos(100), idle_heartbeat: nanos(90) }, { batch: 1, idle_heartbeat: nanos(90) }, { batch: -1 }, { batch: 1, expires: -1 }]) {
      seen.push([request, (await test.pull("PULL", "c", { no_wait: true, ...request })).seen]);
    }
    return seen;
  },

  async pulls_have_bounds(test) {
    await ready(test, "BOUNDS", { max_waiting: 2, max_batch: 2, max_expires: nanos(1000), max_bytes: 500 });
    const seen = [];
    for (const request of [{ batch: 3 }, { batch: 1, expires: nanos(2000) }, { batch: 1, max_bytes: 600 }]) seen.push([request, (await test.pull("BOUNDS", "c", request)).seen]);
    await add(test, "BOUNDS", { durable_name: "w", max_waiting: 2, filter_subject: "bounds.none" });
    const pulls = [1, 2, 3].map(() => test.pull("BOUNDS", "w", { batch: 1, expires: nanos(700) }));
    seen.push((await Promise.all(pulls)).map((pull) => pull.seen).sort());
    const nobody = await test.pull("BOUNDS", "not", { batch: 1 });
    return [seen, nobody.seen];
  },

  async waiting_pulls_are_told_of_an_end(test) {
    await test.stream("ENDS");
    await add(test, "ENDS", { durable_name: "c" });
    await add(test, "ENDS", { durable_name: "s" });
    const waiting = [test.pull("ENDS", "c", { batch: 1, expires: nanos(9000) }), test.pull("ENDS", "s", { batch: 1, expires: nanos(9000) })];
    for (const name of ["c", "s"]) await test.until(() => test.consumer("ENDS", name), ({ num_waiting }) => num_waiting === 1);
    await test.jsm.consumers.delete("ENDS", "c");
    const first = (await waiting[0]).seen;
    await test.jsm.streams.delete("ENDS");
    return [first, (await waiting[1]).seen];
  },

  async acks_move_the_floor(test) {
    const seen = {};
    for (const ack_policy of ["none", "all", "explicit"]) {
      const name = `FLOOR${ack_policy.toUpperCase()}`;
      await ready(test, name, { ack_policy });
      const { messages } = await test.pull(name, "c", { batch: 4 });
      const steps = [await test.consumer(name, "c")];
      for (const at of ack_policy === "all" ? [2] : [1, 3, 0]) {
        if (ack_policy !== "none") await test.nc.request(messages[at].reply, "+ACK", { timeout: 5000 });
        steps.push(await test.consumer(name, "c"));
      }
      seen[ack_policy] = steps;
    }
    return seen;
  },

  async every_kind_of_ack_does_its_own(test) {
    await ready(test, "KINDS", { ack_wait: nanos(30_000) });
    const { messages } = await test.pull("KINDS", "c", { batch: 5 });
    const say = (at, kind) => test.nc.request(messages[at].reply, kind, { timeout: 5000 }).then((answer) => answer.string());
    const seen = [await say(0, ""), await say(1, "+ACK"), await say(2, "-NAK"), await say(3, "+TERM"), await say(4, "+WPI")];
    seen.push((await test.pull("KINDS", "c", { batch: 1, expires: nanos(2000) })).seen);
    const late = test.nc.request(messages[4].reply, `-NAK {"delay": ${nanos(100)}}`, { timeout: 5000 });
    await late;
    seen.push((await test.pull("KINDS", "c", { batch: 1, expires: nanos(5000) })).seen);
    seen.push(await test.consumer("KINDS", "c"), await say(0, "+ACK"));
    const inbox = createInbox();
    const sub = test.nc.subscribe(inbox);
    await test.publish("KINDS", "n");
    const again = (await test.pull("KINDS", "c", { batch: 1, no_wait: true })).messages[0];
    test.nc.publish(again.reply, '+NXT {"batch": 1}', { reply: inbox });
    await test.publish("KINDS", "m");
    const [next] = await take(sub, 1);
    return [seen, shown(next), await test.consumer("KINDS", "c")];
  },

  async what_is_not_acked_comes_again(test) {
    await ready(test, "AGAIN", { ack_wait: nanos(150) });
    const first = await test.pull("AGAIN", "c", { batch: 5 });
    const second = await test.pull("AGAIN", "c", { batch: 5, expires: nanos(5000) });
    await ready(test, "BACK", { backoff: [nanos(50), nanos(100)], max_deliver: 3, filter_subject: "back.b" });
    const back = [];
    for (let round = 0; round < 3; round += 1) back.push((await test.pull("BACK", "c", { batch: 1, expires: nanos(5000) })).seen);
    const wait = (await test.jsm.consumers.info("BACK", "c")).config.ack_wait;
    return [first.seen, second.seen, back, wait];
  },

  async progress_puts_redelivery_off(test) {
    await ready(test, "PROGRESS", { ack_wait: nanos(1000), max_ack_pending: 1 });
    const [message] = (await test.pull("PROGRESS", "c", { batch: 1 })).messages;
    const began = Date.now();
    const working = setInterval(() => test.nc.publish(message.reply, "+WPI"), 100);
    const refused = (await test.pull("PROGRESS", "c", { batch: 1, expires: nanos(1800) })).seen;
    clearInterval(working);
    return [refused, Date.now() - began >= 1700, (await test.pull("PROGRESS", "c", { batch: 1, expires: nanos(9000) })).seen];
  },

  async deliveries_have_a_bound_and_it_is_told(test) {
    await ready(test, "DELIVER", { max_deliver: 2, ack_wait: nanos(100), filter_subject: "deliver.b" });
    const told = await advisory(test, "MAX_DELIVERIES", "DELIVER", async () => {
      const seen = [];
      for (let round = 0; round < 2; round += 1) seen.push((await test.pull("DELIVER", "c", { batch: 1, expires: nanos(5000) })).seen);
      return [...seen, (await test.pull("DELIVER", "c", { batch: 1, expires: nanos(500) })).seen];
    });
    return [told, await test.consumer("DELIVER", "c")];
  },

  async naks_and_terms_are_told(test) {
    await ready(test, "TOLD", { ack_wait: nanos(30_000) });
    const { messages } = await test.pull("TOLD", "c", { batch: 2 });
    const nak = await advisory(test, "MSG_NAKED", "TOLD", async () => test.nc.publish(messages[0].reply, "-NAK") ?? null);
    const term = await advisory(test, "MSG_TERMINATED", "TOLD", async () => test.nc.publish(messages[1].reply, "+TERM no use") ?? null);
    return [nak, term];
  },

  async what_may_be_pending_has_a_bound(test) {
    await ready(test, "PENDING", { max_ack_pending: 2 });
    const { seen, messages } = await test.pull("PENDING", "c", { batch: 4, expires: nanos(300) });
    await test.nc.request(messages[1].reply, "", { timeout: 5000 });
    const more = await test.pull("PENDING", "c", { batch: 4, expires: nanos(300) });
    return [seen, more.seen, await test.consumer("PENDING", "c")];
  },

  async a_consumer_begins_where_it_is_told_to(test) {
    await test.stream("BEGIN");
    await test.publish("BEGIN", "a", "b", "a");
    const middle = (await test.jsm.streams.getMessage("BEGIN", { seq: 3 })).timestamp;
    await test.publish("BEGIN", "b", "c");
    const seen = {};
    const policies = {
      all: {}, last: { deliver_policy: "last" }, new: { deliver_policy: "new" }, sequence: { deliver_policy: "by_start_sequence", opt_start_seq: 4 },
      beyond: { deliver_policy: "by_start_sequence", opt_start_seq: 40 }, time: { deliver_policy: "by_start_time", opt_start_time: middle },
      future: { deliver_policy: "by_start_time", opt_start_time: "2124-01-01T00:00:00Z" }, subjects: { deliver_policy: "last_per_subject", filter_subject: "begin.>" },
      some: { deliver_policy: "last_per_subject", filter_subjects: ["begin.a", "begin.b"] }, last_of: { deliver_policy: "last", filter_subject: "begin.b" },
    };
    for (const [name, policy] of Object.entries(policies)) await add(test, "BEGIN", { durable_name: name, ...policy });
    const before = {};
    for (const name of Object.keys(policies)) before[name] = (await test.consumer("BEGIN", name)).num_pending;
    await test.publish("BEGIN", "a");
    // nats-server counts what is pending a little later than it delivers it.
    const uncounted = (line) => line.replace(/ \+\d+$/, "");
    for (const name of Object.keys(policies)) seen[name] = (await test.pull("BEGIN", name, { batch: 10, no_wait: true })).seen.map(uncounted);
    return [before, seen];
  },

  async filters_let_through_what_matches(test) {
    await ready(test, "FILTER", { filter_subjects: ["filter.a", "filter.c"] });
    await add(test, "FILTER", { durable_name: "one", filter_subject: "filter.b" });
    await add(test, "FILTER", { durable_name: "wild", filter_subject: "filter.*" });
    const seen = [];
    for (const name of ["c", "one", "wild"]) seen.push((await test.pull("FILTER", name, { batch: 10, no_wait: true })).seen, await test.consumer("FILTER", name));
    await test.jsm.consumers.update("FILTER", "one", { filter_subject: "filter.>" });
    await test.publish("FILTER", "z");
    return [seen, (await test.pull("FILTER", "one", { batch: 1, expires: nanos(5000) })).seen];
  },

  async headers_may_be_all_that_comes(test) {
    await test.stream("HEADERS");
    const held = headers();
    held.set("One", "1");
    await test.js.publish("headers.a", "some text", { headers: held });
    await test.publish("HEADERS", "b");
    await add(test, "HEADERS", { durable_name: "c", headers_only: true });
    const { messages } = await test.pull("HEADERS", "c", { batch: 2 });
    return messages.map((message) => [message.string(), lines(message.headers)]);
  },

  async idle_consumers_go(test) {
    await test.stream("IDLE");
    const { name } = await test.jsm.consumers.add("IDLE", { ack_policy: "explicit", inactive_threshold: nanos(200) });
    await add(test, "IDLE", { durable_name: "durable", inactive_threshold: nanos(200) });
    await add(test, "IDLE", { durable_name: "stays" });
    const gone = [];
    for (const consumer of [name, "durable"]) gone.push(await test.until(() => caught(test.consumer("IDLE", consumer)), (answer) => answer.err_code !== undefined));
    return [gone, (await all(test.jsm.consumers.list("IDLE"))).map((info) => info.name)];
  },

  async a_paused_consumer_waits(test) {
    await ready(test, "PAUSE");
    const paused = await test.jsm.consumers.pause("PAUSE", "c", new Date(Date.now() + 3_600_000));
    const info = await test.consumer("PAUSE", "c");
    const quiet = (await test.pull("PAUSE", "c", { batch: 1, expires: nanos(200) })).seen;
    const resumed = await test.jsm.consumers.resume("PAUSE", "c");
    const first = (await test.pull("PAUSE", "c", { batch: 1 })).seen;
    await test.jsm.consumers.pause("PAUSE", "c", new Date(Date.now() + 500));
    return [paused.paused, info, quiet, resumed.paused, first, (await test.pull("PAUSE", "c", { batch: 1, expires: nanos(9000) })).seen];
  },

  async ordered_consumers_see_everything_in_order(test) {
    await test.stream("ORDERED");
    await test.publish("ORDERED", "a", "b", "a", "c");
    const consumer = await test.js.consumers.get("ORDERED");
    const first = (await all(await consumer.fetch({ max_messages: 2, expires: 2000 }))).map((message) => message.seq);
    const rest = [];
    const filtered = await test.js.consumers.get("ORDERED", { filter_subjects: ["ordered.a"], deliver_policy: "by_start_sequence", opt_start_seq: 2 });
    for await (const message of await filtered.consume({ max_messages: 5, expires: 2000 })) {
      rest.push(message.seq);
      if (message.info.pending === 0) break;
    }
    const pushed = [];
    const push = await test.js.consumers.getPushConsumer("ORDERED");
    for await (const message of await push.consume()) {
      pushed.push(message.seq);
      if (message.info.pending === 0) break;
    }
    const { name, deliver_subject, ...options } = config(await push.info());
    return [first, rest, pushed, options, [typeof name, typeof deliver_subject]];
  },

  async a_push_consumer_sends_to_its_subject(test) {
    await ready(test, "PUSH", { deliver_subject: "pushed.here", max_ack_pending: 3 });
    const before = await test.consumer("PUSH", "c");
    const sub = test.nc.subscribe("pushed.here");
    const first = await take(sub, 3);
    const more = test.nc.subscribe("pushed.here");
    await test.nc.flush();
    for (const message of first) await test.nc.request(message.reply, "", { timeout: 5000 });
    const rest = await take(more, 2);
    for (const message of rest) await test.nc.request(message.reply, "", { timeout: 5000 });
    const after = await test.consumer("PUSH", "c");
    return [before, first.map(shown), rest.map(shown), after, (await test.pull("PUSH", "c", { batch: 1 })).seen];
  },

  async a_quiet_push_consumer_beats_and_controls_its_flow(test) {
    await test.stream("BEAT");
    const sub = test.nc.subscribe("to.beat");
    await test.jsm.consumers.add("BEAT", { durable_name: "c", ack_policy: "none", deliver_subject: "to.beat", idle_heartbeat: nanos(200), flow_control: true });
    const [beat] = await take(sub, 1);
    const flow = test.nc.subscribe("to.beat");
    const body = new Uint8Array(64 * 1024);
    const control = (async () => {
      let messages = 0;
      let asked = 0;
      for await (const message of flow) {
        if (message.headers?.code === 100) {
          if (message.reply?.startsWith("$JS.FC.BEAT.c.")) {
            asked += 1;
            message.respond();
          }
        } else {
          messages += 1;
        }
        if (messages === 64) return [messages, asked > 0];
      }
    })();
    for (let at = 0; at < 64; at += 1) await test.js.publish("beat.x", body);
    return [shown(beat), await control];
  },

  async a_deliver_group_shares_what_is_pushed(test) {
    await test.stream("GROUP");
    const subs = [1, 2].map(() => test.nc.subscribe("to.group", { queue: "crew" }));
    const wrong = test.nc.subscribe("to.group", { callback: () => {} });
    wrong.unsubscribe();
    await test.jsm.consumers.add("GROUP", { durable_name: "c", ack_policy: "none", deliver_subject: "to.group", deliver_group: "crew" });
    for (let at = 0; at < 40; at += 1) await test.js.publish("group.x", `${at}`);
    await test.until(() => test.consumer("GROUP", "c"), ({ num_pending, delivered }) => num_pending === 0 && delivered === "40/40");
    await test.nc.flush();
    const got = [];
    for (const sub of subs) {
      await sub.drain();
      got.push((await all(sub)).map((message) => Number(message.string())));
    }
    return [got.flat().sort((a, b) => a - b), got.every((list) => list.length > 0)];
  },
};
