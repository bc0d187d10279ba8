// Streams as nats.js manages them: their life, what is published with which answer, what is read back, limits and retention.

const { all, caught, config, headers, lines, nanos, state, words } = require("./run.cjs");

const message = (stored) => stored && [stored.seq, stored.subject, stored.string(), lines(stored.header)];
const infoOf = async ({ jsm }, name, options) => state(await jsm.streams.info(name, options));
const empty = ({ messages }) => messages === 0;

module.exports = {
  async a_stream_lives(test) {
    const { jsm } = test;
    const made = await test.stream("LIFE", { description: "d", metadata: { a: "b" } });
    const again = await caught(test.stream("LIFE", { description: "d", metadata: { a: "b" } }).then(config));
    const other = await caught(test.stream("LIFE", { description: "other" }));
    await test.publish("LIFE", "a", "b");
    const updated = await jsm.streams.update("LIFE", { subjects: ["life.>", "more"], max_msgs: 10 });
    const info = await jsm.streams.info("LIFE");
    const found = [await jsm.streams.find("more"), await caught(jsm.streams.find("nobody.has.it"))];
    const names = await all(jsm.streams.names("life.>"));
    const listed = (await all(jsm.streams.list())).filter(({ config }) => config.name === "LIFE").map(config);
    const removed = await jsm.streams.delete("LIFE");
    const gone = [await caught(jsm.streams.info("LIFE")), await caught(jsm.streams.delete("LIFE"))];
    return {
      made: [config(made), state(made)], again, other, updated: config(updated), info: [config(info), state(info)], found, names, listed,
      removed, gone,
    };
  },

  async every_field_of_a_config_is_kept(test) {
    const made = await test.stream("FIELDS", {
      subjects: ["fields.*", "fields.*.x"], retention: "workqueue", max_consumers: 7, max_msgs: 1000, max_bytes: 1 << 20, max_age: nanos(3_600_000),
      max_msgs_per_subject: 5, max_msg_size: 1000, discard: "new", discard_new_per_subject: true, duplicate_window: nanos(60_000),
      allow_rollup_hdrs: true, deny_delete: true, allow_direct: true, storage: "memory", first_seq: 10, allow_msg_ttl: true,
      consumer_limits: { inactive_threshold: nanos(10_000), max_ack_pending: 5 },
    });
    await test.publish("FIELDS", "a");
    return [config(made), await infoOf(test, "FIELDS")];
  },

  async some_fields_do_not_change(test) {
    const { jsm } = test;
    await test.stream("FIXED", { max_consumers: 3, storage: "memory", deny_delete: true, deny_purge: true });
    const tries = [
      { storage: "file" }, { max_consumers: 4 }, { retention: "workqueue" }, { deny_delete: false }, { deny_purge: false }, { num_replicas: 3 },
      { subjects: [] }, { subjects: ["fixed.>", "fixed.a"] }, { max_msgs: 5 }, { retention: "interest" }, { discard: "new" },
    ];
    const seen = [];
    for (const change of tries) seen.push([change, await caught(jsm.streams.update("FIXED", change).then(config))]);
    return [seen, await caught(jsm.streams.update("FIXED_NOT", { max_msgs: 1 }))];
  },

  async wrong_streams_are_refused(test) {
    await test.stream("RIGHT");
    const tries = [
      { name: "WRONG1", subjects: ["right.a"] }, { name: "WRONG2", subjects: ["right.>"] }, { name: "WRONG3", subjects: [">"] },
      { name: "WRONG4", subjects: ["$JS.API.>"] }, { name: "WRONG5", subjects: ["wrong5.>", "wrong5.a"] },
      { name: "WRONG6", subjects: ["wrong6"], max_age: 1000 }, { name: "WRONG7", subjects: ["wrong7"], max_age: nanos(1000), duplicate_window: nanos(5000) },
      { name: "WRONG8", subjects: ["wrong8"], discard_new_per_subject: true }, { name: "WRONG9", subjects: ["wrong9"], retention: "nothing" },
      { name: "WRONG10", subjects: ["wrong10"], num_replicas: 3 }, { name: "WRONG11", subjects: ["a..b"] }, { name: "WRONG12", subjects: ["a b"] },
      { name: "WRONG13", subjects: ["wrong13"], duplicate_window: -1 }, { name: "WRONG14", subjects: ["wrong14"], max_msg_size: -2 },
      { name: "WRONG15", subjects: ["_INBOX.>"] }, { name: "WRONG16", subjects: ["wrong16"], sealed: true },
      { name: "WRONG17", subjects: ["wrong17", "wrong17"] }, { name: "WRONG18", subjects: ["wrong18"], max_bytes: 1, allow_rollup_hdrs: true, deny_purge: true },
      { name: "WRONG19", subjects: ["wrong19"], first_seq: 5, mirror_direct: true }, { name: "WRONG20", subjects: ["wrong20"], max_msgs: -5 },
      { name: "WRONG21", subjects: ["wrong21"], description: "x".repeat(5000) }, { name: "WRONG22", subjects: ["$SYS.>"] },
      { name: "WRONG23", subjects: ["wrong23"], subject_delete_marker_ttl: nanos(500), allow_msg_ttl: true },
    ];
    const seen = [];
    for (const config of tries) {
      const answer = await test.request(`$JS.API.STREAM.CREATE.${config.name}`, config);
      seen.push([config.name, answer.error ? words(answer.error) : "made"]);
    }
    return seen;
  },

  async publishes_are_acknowledged(test) {
    await test.stream("ACKED");
    const seen = [];
    for (const [subject, body] of [["acked.a", "1"], ["acked.b", ""], ["acked.a", "3"]]) seen.push(await test.js.publish(subject, body));
    const nobody = await caught(test.js.publish("nobody.wants.it", "x", { timeout: 5000 }));
    const many = await Promise.all([...Array(300).keys()].map((at) => test.js.publish("acked.many", `${at}`)));
    return [seen, nobody, many.map(({ seq }) => seq), await infoOf(test, "ACKED")];
  },

  async a_purge_takes_what_it_names(test) {
    const { jsm } = test;
    const seen = [];
    const options = [undefined, { filter: "NAME.a" }, { seq: 4 }, { keep: 2 }, { filter: "NAME.b", keep: 1 }, { filter: "NAME.b", seq: 5 }, { filter: "nothing" }, { seq: 8 }];
    for (const [at, option] of options.entries()) {
      const name = `PURGE${at}`;
      await test.stream(name);
      await test.publish(name, "a", "b", "a", "c", "b", "a", "b");
      const named = option?.filter ? { ...option, filter: option.filter.replace("NAME", name.toLowerCase()) } : option;
      const answer = await jsm.streams.purge(name, named);
      const after = await infoOf(test, name, { deleted_details: true, subjects_filter: ">" });
      await test.publish(name, "z");
      seen.push([option ?? null, answer.purged, after, (await infoOf(test, name)).last_seq]);
    }
    const both = await test.request("$JS.API.STREAM.PURGE.PURGE0", { seq: 1, keep: 1 });
    return [seen, both.error];
  },

  async messages_are_read_back(test) {
    const { jsm } = test;
    await test.stream("READ");
    const held = headers();
    held.set("One", "1");
    await test.js.publish("read.a", "first", { headers: held });
    await test.publish("READ", "b", "a", "c");
    const queries = [{ seq: 1 }, { seq: 3 }, { last_by_subj: "read.a" }, { last_by_subj: "read.*" }, { next_by_subj: "read.c" }, { seq: 2, next_by_subj: "read.a" }, { seq: 9 }, { last_by_subj: "read.z" }];
    const seen = [];
    for (const query of queries) seen.push([query, await caught(jsm.streams.getMessage("READ", query).then(message))]);
    const odd = [];
    for (const body of [{}, { seq: 0 }, { seq: 1, last_by_subj: "x" }, "{", { last_by_subj: "a", next_by_subj: "b" }]) {
      odd.push(words((await test.request("$JS.API.STREAM.MSG.GET.READ", body)).error));
    }
    return [seen, odd, await caught(jsm.streams.getMessage("READ_NOT", { seq: 1 }))];
  },

  async messages_are_removed_one_by_one(test) {
    const { jsm } = test;
    await test.stream("REMOVE");
    await test.publish("REMOVE", "a", "b", "c", "d", "e");
    const seen = [
      await jsm.streams.deleteMessage("REMOVE", 2), await jsm.streams.deleteMessage("REMOVE", 4, false), await caught(jsm.streams.deleteMessage("REMOVE", 4)),
      await caught(jsm.streams.deleteMessage("REMOVE", 40)), await caught(jsm.streams.getMessage("REMOVE", { seq: 2 }).then(message)),
      await infoOf(test, "REMOVE", { deleted_details: true }), await jsm.streams.deleteMessage("REMOVE", 1), await jsm.streams.deleteMessage("REMOVE", 5),
      await infoOf(test, "REMOVE", { deleted_details: true }),
    ];
    await test.stream("KEEP", { deny_delete: true, deny_purge: true });
    await test.publish("KEEP", "a");
    return [seen, await caught(jsm.streams.deleteMessage("KEEP", 1)), await caught(jsm.streams.purge("KEEP"))];
  },

  async messages_are_read_directly(test) {
    const { jsm } = test;
    await test.stream("DIRECT", { allow_direct: true, max_msgs_per_subject: 3 });
    await test.publish("DIRECT", "a", "b", "a", "c", "b", "a");
    const queries = [{ seq: 2 }, { last_by_subj: "direct.a" }, { seq: 2, next_by_subj: "direct.*" }, { next_by_subj: "direct.c" }, { seq: 99 }, { last_by_subj: "direct.z" }];
    const seen = [];
    for (const query of queries) seen.push([query, await caught(jsm.direct.getMessage("DIRECT", query).then(message))]);
    const lists = [];
    for (const query of [{ batch: 3, seq: 1 }, { batch: 10, seq: 2, next_by_subj: "direct.a" }, { batch: 2, seq: 1, max_bytes: 10 }, { batch: 5, seq: 50 }]) {
      lists.push([query, await caught(jsm.direct.getBatch("DIRECT", query).then(all).then((list) => list.map(message)))]);
    }
    for (const query of [{ multi_last: ["direct.a", "direct.b"] }, { multi_last: ["direct.>"] }, { multi_last: ["direct.>"], up_to_seq: 4 }, { multi_last: ["direct.>"], batch: 2 }, { multi_last: ["nothing"] }]) {
      lists.push([query, await caught(jsm.direct.getLastMessagesFor("DIRECT", query).then(all).then((list) => list.map(message)))]);
    }
    await test.stream("INDIRECT");
    await test.publish("INDIRECT", "a");
    return [seen, lists, await caught(jsm.direct.getMessage("INDIRECT", { seq: 1 }).then(message))];
  },

  async old_messages_go_or_new_ones_are_refused(test) {
    const { jsm, js } = test;
    const seen = {};
    const limits = {
      MSGS: { max_msgs: 3 }, BYTES: { max_bytes: 300 }, SUBJECT: { max_msgs_per_subject: 1 }, SUBJECT2: { max_msgs_per_subject: 2 },
      MSGSNEW: { max_msgs: 3, discard: "new" }, BYTESNEW: { max_bytes: 300, discard: "new" },
      SUBJECTNEW: { max_msgs_per_subject: 1, discard: "new", discard_new_per_subject: true }, SIZE: { max_msg_size: 50 },
      BOTH: { max_msgs: 4, max_msgs_per_subject: 2 }, MEMORY: { max_msgs: 3, storage: "memory" }, MEMORYBYTES: { max_bytes: 300, storage: "memory" },
    };
    for (const [suffix, limit] of Object.entries(limits)) {
      const name = `LIMIT${suffix}`;
      await test.stream(name, limit);
      const answers = [];
      for (const [subject, body] of [["a", "1"], ["b", "2".repeat(60)], ["a", "3"], ["b", "4".repeat(40)], ["c", "5"], ["a", "6"]]) {
        answers.push(await caught(js.publish(`${name.toLowerCase()}.${subject}`, body)));
      }
      seen[suffix] = [answers, await infoOf(test, name, { deleted_details: true, subjects_filter: ">" })];
    }
    await jsm.streams.update("LIMITMSGS", { max_msgs: 1 });
    const smaller = await test.until(() => infoOf(test, "LIMITMSGS"), ({ messages }) => messages === 1);
    return [seen, smaller];
  },

  async bytes_are_counted_alike(test) {
    const seen = [];
    for (const storage of ["file", "memory"]) {
      const name = `COUNTED${storage.toUpperCase()}`;
      await test.stream(name, { storage });
      const held = headers();
      held.set("One", "1");
      await test.publish(name, "a", "b");
      await test.js.publish(`${name.toLowerCase()}.c`, "x".repeat(100), { headers: held });
      seen.push((await test.jsm.streams.info(name)).state.bytes);
    }
    return seen;
  },

  async messages_age(test) {
    await test.stream("AGE", { max_age: nanos(300) });
    await test.publish("AGE", "a", "b");
    const gone = await test.until(() => infoOf(test, "AGE"), empty);
    await test.publish("AGE", "c");
    await test.stream("YOUNG");
    await test.publish("YOUNG", "a", "b");
    await test.jsm.streams.update("YOUNG", { max_age: nanos(200), duplicate_window: nanos(200) });
    return [gone, (await infoOf(test, "AGE")).last_seq, await test.until(() => infoOf(test, "YOUNG"), empty)];
  },

  async interest_keeps_what_somebody_still_wants(test) {
    const { jsm } = test;
    await test.stream("INTEREST", { retention: "interest" });
    await test.publish("INTEREST", "a");
    const before = await infoOf(test, "INTEREST");
    for (const durable_name of ["one", "two"]) await jsm.consumers.add("INTEREST", { durable_name, ack_policy: "explicit" });
    await test.publish("INTEREST", "a", "b");
    const both = await infoOf(test, "INTEREST");
    const ackAll = async (name) => {
      for (const message of await all(await (await test.js.consumers.get("INTEREST", name)).fetch({ max_messages: 2, expires: 2000 }))) await message.ackAck();
    };
    await ackAll("one");
    const half = await infoOf(test, "INTEREST");
    await ackAll("two");
    const none = await test.until(() => infoOf(test, "INTEREST"), empty);
    await test.publish("INTEREST", "c");
    await jsm.consumers.delete("INTEREST", "one");
    const left = await infoOf(test, "INTEREST");
    await jsm.consumers.delete("INTEREST", "two");
    return [before, both, half, none, left, await test.until(() => infoOf(test, "INTEREST"), empty)];
  },

  async a_work_queue_gives_each_message_away_once(test) {
    const { jsm } = test;
    await test.stream("WORK", { retention: "workqueue" });
    await test.publish("WORK", "a", "b", "a");
    const add = (config) => caught(jsm.consumers.add("WORK", config).then(({ name }) => name));
    const seen = [
      await add({ durable_name: "a", ack_policy: "explicit", filter_subject: "work.a" }), await add({ durable_name: "all", ack_policy: "explicit" }),
      await add({ durable_name: "again", ack_policy: "explicit", filter_subject: "work.a" }), await add({ durable_name: "none", ack_policy: "none", filter_subject: "work.b" }),
      await add({ durable_name: "new", ack_policy: "explicit", filter_subject: "work.b", deliver_policy: "new" }),
      await add({ durable_name: "b", ack_policy: "explicit", filter_subject: "work.b" }),
    ];
    for (const message of await all(await (await test.js.consumers.get("WORK", "a")).fetch({ max_messages: 2, expires: 2000 }))) await message.ackAck();
    seen.push(await test.until(() => infoOf(test, "WORK", { subjects_filter: ">" }), ({ messages }) => messages === 1));
    const [message] = await all(await (await test.js.consumers.get("WORK", "b")).fetch({ max_messages: 1, expires: 2000 }));
    message.term("no use");
    return [seen, await test.until(() => infoOf(test, "WORK"), empty)];
  },

  async an_id_is_taken_once_within_the_window(test) {
    const { js } = test;
    await test.stream("ONCE");
    const seen = [
      await js.publish("once.a", "1", { msgID: "x" }), await js.publish("once.a", "2", { msgID: "x" }), await js.publish("once.b", "3", { msgID: "x" }),
      await js.publish("once.a", "4", { msgID: "y" }),
    ];
    await test.stream("LATER", { duplicate_window: nanos(200) });
    await js.publish("later.a", "1", { msgID: "x" });
    const later = await test.until(() => js.publish("later.a", "2", { msgID: "x" }), ({ duplicate }) => !duplicate);
    return [seen, later, await infoOf(test, "ONCE")];
  },

  async expectations_are_checked(test) {
    const { js } = test;
    await test.stream("EXPECT");
    const seen = [];
    const tries = [
      ["a", {}, "first"], ["a", { lastSequence: 1 }], ["a", { lastSequence: 1 }], ["b", { lastSubjectSequence: 0 }], ["b", { lastSubjectSequence: 0 }], ["b", { lastSubjectSequence: 3 }],
      ["a", { streamName: "EXPECT" }], ["a", { streamName: "OTHER" }], ["a", { lastMsgID: "first" }], ["a", {}, "second"], ["a", { lastMsgID: "second" }],
      ["c", { lastSubjectSequence: 4, lastSubjectSequenceSubject: "expect.b" }], ["c", { lastSubjectSequence: 3, lastSubjectSequenceSubject: "expect.b" }],
      ["c", { lastSubjectSequence: 8, lastSubjectSequenceSubject: "expect.*" }], ["a", {}, "second"],
    ];
    for (const [subject, expect, msgID] of tries) seen.push([subject, expect, await caught(js.publish(`expect.${subject}`, "x", { expect, msgID }))]);
    const odd = [];
    for (const [key, value] of [["Nats-Expected-Last-Sequence", "x"], ["Nats-Expected-Last-Subject-Sequence", "-1"], ["Nats-Rollup", "sub"], ["Nats-Msg-Id", ""]]) {
      const held = headers();
      held.set(key, value);
      odd.push([key, value, await caught(js.publish("expect.odd", "x", { headers: held }))]);
    }
    return [seen, odd, await infoOf(test, "EXPECT", { subjects_filter: ">" })];
  },

  async messages_live_as_long_as_they_say(test) {
    const { js } = test;
    await test.stream("TTL", { allow_msg_ttl: true });
    await test.stream("NOTTL");
    const seen = [];
    for (const ttl of ["1s", "1", "never", "100ms", "x", "-1", "0"]) seen.push([ttl, await caught(js.publish("ttl.a", ttl, { ttl }))]);
    seen.push(await caught(js.publish("nottl.a", "x", { ttl: "1s" })));
    const left = await test.until(() => infoOf(test, "TTL"), ({ messages }) => messages <= 1);
    return [seen, left];
  },

  async limit_markers_tell_what_went(test) {
    const { jsm } = test;
    const made = await test.stream("MARKED", { max_age: nanos(1000), allow_msg_ttl: true, subject_delete_marker_ttl: nanos(1000) });
    await test.publish("MARKED", "a");
    const marker = await test.until(
      () => jsm.streams.getMessage("MARKED", { last_by_subj: "marked.a" }).then((stored) => stored && [stored.seq, stored.string(), lines(stored.header)]),
      (stored) => stored?.[0] === 2,
    );
    const gone = await test.until(() => infoOf(test, "MARKED"), empty);
    return [config(made), marker, gone];
  },

  async a_rollup_takes_what_was_before(test) {
    const { js } = test;
    await test.stream("ROLL", { allow_rollup_hdrs: true });
    await test.publish("ROLL", "a", "b", "a");
    const seen = [];
    for (const [subject, value] of [["a", "sub"], ["b", "other"], ["c", "all"]]) {
      const held = headers();
      held.set("Nats-Rollup", value);
      seen.push([await caught(js.publish(`roll.${subject}`, value, { headers: held })), await infoOf(test, "ROLL", { subjects_filter: ">", deleted_details: true })]);
    }
    return seen;
  },

  async info_names_the_subjects_that_are_asked_for(test) {
    await test.stream("NAMES");
    await test.publish("NAMES", "a", "b.c", "b.d", "a");
    const seen = [];
    for (const filter of [">", "names.a", "names.b.*", "nothing"]) seen.push(await infoOf(test, "NAMES", { subjects_filter: filter }));
    return seen;
  },

  async a_sealed_stream_does_not_change(test) {
    await test.stream("SEALED");
    await test.publish("SEALED", "a");
    const sealed = await caught(test.jsm.streams.update("SEALED", { sealed: true }).then(config));
    const after = [await caught(test.js.publish("sealed.a", "x")), await caught(test.jsm.streams.deleteMessage("SEALED", 1)), await caught(test.jsm.streams.purge("SEALED"))];
    return [sealed, after, await caught(test.jsm.streams.update("SEALED", { sealed: false }))];
  },

  async a_stream_may_not_answer(test) {
    await test.stream("QUIET", { no_ack: true });
    test.nc.publish("quiet.a", "1");
    const stored = await test.until(() => infoOf(test, "QUIET"), ({ messages }) => messages === 1);
    return [stored, await caught(test.js.publish("quiet.a", "2", { timeout: 100 }))];
  },
};
