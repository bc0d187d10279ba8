// Key-value buckets as nats.js makes and uses them.

const { Kvm } = require("@nats-io/kv");
const { all, caught, config, take } = require("./run.cjs");

const entry = (held) => held && [held.key, held.string(), held.revision, held.operation, held.delta];
const bucket = ({ js }, name, options) => new Kvm(js).create(name, options);

module.exports = {
  async a_bucket_is_a_stream_of_its_own(test) {
    await bucket(test, "plain");
    await bucket(test, "full", { description: "d", history: 5, ttl: 60_000, max_bytes: 100_000, maxValueSize: 1000, storage: "memory" });
    const seen = [];
    for (const name of ["plain", "full"]) seen.push(config(await test.jsm.streams.info(`KV_${name}`)));
    const again = await caught(bucket(test, "plain").then(() => "made"));
    const other = await caught(bucket(test, "plain", { history: 3 }).then(() => "made"));
    const names = (await all(new Kvm(test.js).list())).map((status) => status.bucket).filter((name) => ["plain", "full"].includes(name)).sort();
    const missing = await caught(new Kvm(test.js).open("missing", { bindOnly: true }).then((kv) => kv.get("a")));
    return [seen, again, other, names, missing];
  },

  async values_are_put_and_got(test) {
    const kv = await bucket(test, "values", { history: 3 });
    const put = [await kv.put("a", "1"), await kv.put("b.c", "2"), await kv.put("a", "3"), await kv.put("=x/y-z_1", "")];
    const got = [];
    for (const key of ["a", "b.c", "=x/y-z_1", "missing"]) got.push(entry(await kv.get(key)));
    for (const revision of [1, 2, 9]) got.push(entry(await kv.get("a", { revision })));
    const wrong = [];
    for (const key of ["a b", ".a", "", "a*"]) wrong.push(await caught(kv.put(key, "x")));
    return [put, got, wrong];
  },

  async compare_and_set(test) {
    const kv = await bucket(test, "cas", { history: 5 });
    const seen = [await kv.create("a", "1"), await caught(kv.create("a", "2")), await kv.update("a", "3", 1), await caught(kv.update("a", "4", 1)), await caught(kv.update("b", "x", 9)), await kv.create("b", "y")];
    await kv.delete("a");
    seen.push(entry(await kv.get("a")), await kv.create("a", "again"), await caught(kv.delete("a", { previousSeq: 1 })), await caught(kv.delete("a", { previousSeq: 5 })));
    await kv.purge("b");
    return [seen, entry(await kv.get("b")), await kv.create("b", "z"), await caught(kv.put("b", "w", { previousSeq: 1 }))];
  },

  async history_and_keys(test) {
    const kv = await bucket(test, "history", { history: 3 });
    for (const [key, value] of [["a", "1"], ["a", "2"], ["b", "x"], ["a", "3"], ["a", "4"], ["c", "y"]]) await kv.put(key, value);
    await kv.delete("c");
    const seen = [(await all(await kv.history({ key: "a" }))).map(entry), (await all(await kv.keys())).sort(), (await all(await kv.keys("a"))).sort()];
    await kv.purge("a");
    seen.push((await all(await kv.history({ key: "a" }))).map(entry), (await all(await kv.history())).map(entry), (await all(await kv.keys())).sort());
    const status = await kv.status();
    return [seen, [status.bucket, status.values, status.history, status.ttl, status.storage, status.max_bytes, status.streamInfo.state.messages]];
  },

  async purging_deletes_leaves_what_is_alive(test) {
    const kv = await bucket(test, "tidy", { history: 3 });
    for (const [key, value] of [["a", "1"], ["b", "2"], ["c", "3"]]) await kv.put(key, value);
    await kv.delete("a");
    await kv.purge("b");
    const purged = await kv.purgeDeletes(0);
    const info = await test.jsm.streams.info("KV_tidy", { subjects_filter: ">" });
    return [purged.purged, info.state.messages, info.state.subjects, (await all(await kv.keys())).sort()];
  },

  async a_watch_sees_what_is_and_what_comes(test) {
    const kv = await bucket(test, "watch", { history: 2 });
    for (const [key, value] of [["a", "1"], ["a", "2"], ["b.x", "3"]]) await kv.put(key, value);
    const watches = {
      all: [await kv.watch(), 6], one: [await kv.watch({ key: "b.>" }), 3], history: [await kv.watch({ include: "history" }), 7],
      updates: [await kv.watch({ include: "updates" }), 4], alive: [await kv.watch({ ignoreDeletes: true }), 4], several: [await kv.watch({ key: ["a", "c"] }), 3],
      from: [await kv.watch({ resumeFromRevision: 3 }), 5],
    };
    await kv.put("b.y", "4");
    await kv.delete("b.x");
    await kv.put("c", "5");
    await kv.purge("a");
    const seen = {};
    for (const [name, [watch, count]] of Object.entries(watches)) {
      seen[name] = (await take(watch, count)).map((held) => [held.key, held.string(), held.revision, held.operation]);
    }
    return seen;
  },

  async values_and_markers_end(test) {
    const kv = await bucket(test, "ttl", { ttl: 500 });
    await kv.put("a", "1");
    const gone = await test.until(() => kv.get("a"), (held) => held === null);
    const marked = await caught(bucket(test, "marked", { markerTTL: 1000 }));
    const info = config(await test.jsm.streams.info("KV_marked"));
    const limited = marked.ok;
    await limited.create("a", "1", "1s");
    const end = await test.until(async () => entry(await limited.get("a")), (held) => held?.[3] === "PURGE");
    return [gone, info, end && end[3], await caught(limited.create("b", "2", "2s"))];
  },

  async buckets_do_not_see_each_other(test) {
    const [one, two] = [await bucket(test, "one"), await bucket(test, "two")];
    await one.put("a", "1");
    await two.put("a", "2");
    const seen = [entry(await one.get("a")), entry(await two.get("a"))];
    const destroyed = await one.destroy();
    return [seen, destroyed, entry(await two.get("a")), await caught(one.get("a")), await caught(one.put("a", "x"))];
  },
};
