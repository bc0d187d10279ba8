// The client protocol as nats.js uses it: subjects, headers, queue groups, requests, limits, ends, proofs and permissions.

const fs = require("node:fs");
const { nkeyAuthenticator } = require("@nats-io/transport-node");
const { all, caught, connect, headers, lines, take, until } = require("./run.cjs");

const texts = (messages) => messages.map((message) => message.string());

module.exports = {
  async messages_come_in_order({ nc }) {
    const sub = nc.subscribe("order");
    for (let number = 0; number < 200; number += 1) nc.publish("order", `${number}`);
    return texts(await take(sub, 200));
  },

  async headers_are_carried({ nc }) {
    const sub = nc.subscribe("headers");
    const held = headers();
    held.append("One", "1");
    held.append("Many", "a");
    held.append("Many", "b");
    held.append("one", "lower case is another name");
    nc.publish("headers", "x", { headers: held });
    nc.publish("headers", "");
    return (await take(sub, 2)).map((message) => [lines(message.headers), message.string()]);
  },

  async wildcards_match_tokens({ nc }) {
    const subs = ["wild.*", "wild.>", "wild.*.b", "*.a", "wild.a"].map((pattern) => [pattern, nc.subscribe(pattern)]);
    for (const subject of ["wild.a", "wild.b", "wild.a.b", "wild", "wild.a.b.c"]) nc.publish(subject, subject);
    await nc.flush();
    const seen = [];
    for (const [pattern, sub] of subs) {
      await sub.drain();
      seen.push([pattern, texts(await all(sub)).filter((text) => text.startsWith("wild"))]);
    }
    return seen;
  },

  async a_queue_group_gets_each_message_once({ nc, servers }) {
    const other = await connect({ servers: servers.plain });
    const subs = [nc, nc, other].map((connection) => connection.subscribe("queue.work", { queue: "crew" }));
    const watching = nc.subscribe("queue.work");
    await other.flush();
    await nc.flush();
    for (let number = 0; number < 90; number += 1) nc.publish("queue.work", `${number}`);
    await nc.flush();
    await other.flush();
    const got = [];
    for (const sub of [...subs, watching]) {
      await sub.drain();
      got.push(texts(await all(sub)).map(Number));
    }
    await other.close();
    const members = got.slice(0, 3);
    return { each: members.flat().sort((a, b) => a - b), all_worked: members.every((list) => list.length > 0), watching: got[3].length };
  },

  async requests_are_answered({ nc, servers }) {
    const other = await connect({ servers: servers.plain });
    other.subscribe("service", {
      callback: (_, message) => {
        const held = headers();
        held.set("Asked", message.headers?.get("Question") ?? "nothing");
        message.respond(`${message.string()}!`, { headers: held });
      },
    });
    await other.flush();
    const question = headers();
    question.set("Question", "why");
    const answers = [];
    for (const noMux of [false, true]) {
      const answer = await nc.request("service", "yes", { timeout: 5000, headers: question, noMux });
      answers.push([answer.string(), lines(answer.headers)]);
    }
    const many = await nc.requestMany("service", "many", { maxWait: 5000, maxMessages: 1 });
    answers.push(texts(await all(many)));
    const parallel = await Promise.all([...Array(50).keys()].map((at) => nc.request("service", `${at}`, { timeout: 5000 })));
    answers.push(texts(parallel));
    await other.close();
    return answers;
  },

  async nobody_answers({ nc }) {
    const silent = nc.subscribe("silent", { callback: () => {} });
    await nc.flush();
    const seen = [await caught(nc.request("nobody.here", "", { timeout: 5000 })), await caught(nc.request("silent", "", { timeout: 50 }))];
    silent.unsubscribe();
    return seen;
  },

  async payloads_have_a_bound({ nc }) {
    const max = nc.info.max_payload;
    const sub = nc.subscribe("big");
    nc.publish("big", new Uint8Array(max));
    const [message] = await take(sub, 1);
    const refused = await caught((async () => nc.publish("big", new Uint8Array(max + 1)))());
    return { max, got: message.data.length, refused };
  },

  async a_subscription_ends_after_so_many({ nc }) {
    const early = nc.subscribe("ends", { max: 2 });
    const late = nc.subscribe("ends");
    for (const text of ["1", "2", "3"]) nc.publish("ends", text);
    const got = [texts(await all(early)), texts(await take(late, 3))];
    const counted = nc.subscribe("ends.later");
    nc.publish("ends.later", "1");
    await nc.flush();
    counted.unsubscribe(3);
    for (const text of ["2", "3", "4"]) nc.publish("ends.later", text);
    return [...got, texts(await all(counted))];
  },

  async what_was_sent_before_a_drain_comes({ nc, servers }) {
    const other = await connect({ servers: servers.plain });
    const sub = other.subscribe("drained");
    await other.flush();
    for (const text of ["1", "2", "3"]) nc.publish("drained", text);
    await nc.flush();
    await other.flush();
    const taken = all(sub);
    await other.drain();
    return { got: texts(await taken), closed: other.isClosed() };
  },

  async users_prove_who_they_are({ servers }) {
    const seed = new TextEncoder().encode(servers.seed);
    const stranger = new TextEncoder().encode(servers.stranger);
    const tries = {
      password: { servers: servers.users, user: "cart", pass: "cart" },
      wrong: { servers: servers.users, user: "cart", pass: "x" },
      unknown: { servers: servers.users, user: "nobody", pass: "x" },
      nothing: { servers: servers.users },
      nkey: { servers: servers.users, authenticator: nkeyAuthenticator(seed) },
      stranger: { servers: servers.users, authenticator: nkeyAuthenticator(stranger) },
      token: { servers: servers.token, token: "open" },
      shut: { servers: servers.token, token: "shut" },
      tls: { servers: servers.tls, tls: { ca: fs.readFileSync(servers.ca, "utf8") } },
    };
    const seen = {};
    for (const [name, options] of Object.entries(tries)) {
      seen[name] = await caught(connect({ ...options, reconnect: false }).then(async (nc) => {
        const sub = nc.subscribe("proof");
        nc.publish("proof", name);
        const [message] = await take(sub, 1);
        await nc.close();
        return message.string();
      }));
    }
    return seen;
  },

  async users_do_what_they_may({ servers }) {
    const nc = await connect({ servers: servers.users, user: "cart", pass: "cart", reconnect: false });
    const refused = [];
    (async () => {
      for await (const status of nc.status()) {
        if (status.type === "error") refused.push(`${status.error.name}: ${status.error.message}`);
      }
    })();
    const seen = {};
    for (const pattern of ["events.in", "salaries.*", ">"]) {
      const error = await new Promise((resolve) => {
        nc.subscribe(pattern, { callback: (error) => resolve(error) });
        nc.flush().then(() => resolve(null));
      });
      seen[pattern] = error && error.message;
    }
    nc.publish("events.out", "");
    nc.publish("events.other", "");
    await nc.flush();
    seen.publish = await until(() => refused.filter((text) => text.includes("events.")), (list) => list.length > 0);
    await nc.close();
    return seen;
  },
};
