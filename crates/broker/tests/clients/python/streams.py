"""Streams as nats-py manages them: their life, what is published with which answer, what is read back, limits and retention."""

import asyncio

from nats.js import api
from run import caught, config, plain, until


def _message(stored):
    return [stored.seq, stored.subject, (stored.data or b"").decode(), _headers(stored.headers)]


def _headers(held):
    """Of a time only that it is one."""
    return {key: "TIME" if key == "Nats-Time-Stamp" else value for key, value in (held or {}).items()}


async def _read(awaitable):
    return _message(await awaitable)


async def _config(awaitable):
    return config(await awaitable)


def _is_empty(state):
    return state["messages"] == 0


async def a_stream_lives(t):
    made = await t.stream("LIFE", description="d", metadata={"a": "b"})
    again = await caught(_config(t.stream("LIFE", description="d", metadata={"a": "b"})))
    other = await caught(_config(t.stream("LIFE", description="other")))
    await t.publish("LIFE", "a", "b")
    updated = await t.js.update_stream(name="LIFE", subjects=["life.>", "more"], max_msgs=10, description="d")
    info = await t.js.stream_info("LIFE", subjects_filter=">")
    found = [await t.js.find_stream_name_by_subject("more"), await caught(t.js.find_stream_name_by_subject("nobody.has.it"))]
    listed = [config(info) for info in await t.js.streams_info() if info.config.name == "LIFE"]
    removed = await t.js.delete_stream("LIFE")
    gone = [await caught(t.js.stream_info("LIFE")), await caught(t.js.delete_stream("LIFE"))]
    state = [info.state.messages, info.state.first_seq, info.state.last_seq, info.state.subjects, info.state.consumer_count]
    return [config(made), again, other, config(updated), config(info), state, found, listed, removed, gone]


async def every_field_of_a_config_is_kept(t):
    made = await t.stream(
        "FIELDS", subjects=["fields.*"], retention=api.RetentionPolicy.WORK_QUEUE, max_consumers=7, max_msgs=1000, max_bytes=1 << 20,
        max_age=3600, max_msgs_per_subject=5, max_msg_size=1000, discard=api.DiscardPolicy.NEW, discard_new_per_subject=True,
        duplicate_window=60, allow_rollup_hdrs=True, deny_delete=True, allow_direct=True, storage=api.StorageType.MEMORY,
        compression=api.StoreCompression.NONE, allow_msg_ttl=True, consumer_limits=api.StreamConsumerLimits(inactive_threshold=10, max_ack_pending=5),
    )
    return config(made)


async def wrong_streams_are_refused(t):
    await t.stream("RIGHT")
    tries = {
        "WRONG1": {"subjects": ["right.a"]}, "WRONG2": {"subjects": [">"]}, "WRONG3": {"subjects": ["wrong3"], "max_age": 0.00001},
        "WRONG4": {"subjects": ["wrong4"], "num_replicas": 3}, "WRONG5": {"subjects": ["a..b"]},
        "WRONG6": {"subjects": ["wrong6"], "discard_new_per_subject": True}, "WRONG7": {"subjects": ["wrong7"], "max_age": 10, "duplicate_window": 20},
    }
    seen = {name: await caught(_config(t.stream(name, **options))) for name, options in tries.items()}
    changed = [await caught(_config(t.js.update_stream(name="RIGHT", subjects=["right.>"], **change))) for change in (
        {"storage": api.StorageType.MEMORY}, {"retention": api.RetentionPolicy.WORK_QUEUE}, {"num_replicas": 3},
    )]
    return [seen, changed, await caught(_config(t.js.update_stream(name="MISSING", subjects=["x"])))]


async def publishes_are_acknowledged(t):
    await t.stream("ACKED")
    seen = [plain(await t.js.publish(f"acked.{subject}", body)) for subject, body in (("a", b"1"), ("b", b""), ("a", b"3"))]
    nobody = await caught(t.js.publish("nobody.wants.it", b"x"))
    futures = [await t.js.publish_async("acked.many", str(at).encode()) for at in range(300)]
    await t.js.publish_async_completed()
    return [seen, nobody, [(await future).seq for future in futures], await t.state("ACKED")]


async def a_purge_takes_what_it_names(t):
    seen = []
    options = [{}, {"subject": "a"}, {"seq": 4}, {"keep": 2}, {"subject": "b", "keep": 1}, {"subject": "b", "seq": 5}, {"subject": "nothing"}]
    for at, option in enumerate(options):
        name = f"PURGE{at}"
        await t.stream(name)
        await t.publish(name, "a", "b", "a", "c", "b", "a", "b")
        named = {**option, "subject": f"{name.lower()}.{option['subject']}"} if "subject" in option else option
        seen.append([option, await t.js.purge_stream(name, **named), await t.state(name, deleted_details=True, subjects_filter=">")])
    await t.stream("PURGENOT", deny_purge=True)
    return [seen, await caught(t.js.purge_stream("PURGENOT")), await caught(t.js.purge_stream("MISSING"))]


async def messages_are_read_back(t):
    await t.stream("READ", allow_direct=True)
    await t.js.publish("read.a", b"first", headers={"One": "1"})
    await t.publish("READ", "b", "a", "c")
    seen = []
    for direct in (False, True):
        queries = [{"seq": 1}, {"seq": 3}, {"subject": "read.a"}, {"seq": 2, "subject": "read.a", "next": True}, {"seq": 9}, {"subject": "read.z"}]
        seen.append([[query, await caught(_read(t.js.get_msg("READ", direct=direct, **query)))] for query in queries])
    return [seen, await caught(_read(t.js.get_last_msg("READ", "read.c"))), await caught(_read(t.js.get_msg("MISSING", seq=1)))]


async def messages_are_removed_one_by_one(t):
    await t.stream("REMOVE")
    await t.publish("REMOVE", "a", "b", "c")
    seen = [await t.js.delete_msg("REMOVE", 2), await caught(t.js.delete_msg("REMOVE", 2)), await caught(t.js.delete_msg("REMOVE", 40))]
    unread = await caught(_read(t.js.get_msg("REMOVE", seq=2)))
    await t.stream("KEEP", deny_delete=True)
    await t.publish("KEEP", "a")
    return [seen, unread, await t.state("REMOVE", deleted_details=True), await caught(t.js.delete_msg("KEEP", 1))]


async def old_messages_go_or_new_ones_are_refused(t):
    seen, new = {}, api.DiscardPolicy.NEW
    limits = {
        "MSGS": {"max_msgs": 3}, "BYTES": {"max_bytes": 300}, "SUBJECT": {"max_msgs_per_subject": 1}, "MSGSNEW": {"max_msgs": 3, "discard": new},
        "BYTESNEW": {"max_bytes": 300, "discard": new}, "SUBJECTNEW": {"max_msgs_per_subject": 1, "discard": new, "discard_new_per_subject": True},
        "SIZE": {"max_msg_size": 50}, "MEMORY": {"max_msgs": 3, "storage": api.StorageType.MEMORY},
    }
    for suffix, limit in limits.items():
        name = f"LIMIT{suffix}"
        await t.stream(name, **limit)
        answers = []
        for subject, body in (("a", b"1"), ("b", b"2" * 60), ("a", b"3"), ("b", b"4" * 40), ("c", b"5"), ("a", b"6")):
            answers.append(await caught(t.js.publish(f"{name.lower()}.{subject}", body)))
        seen[suffix] = [answers, await t.state(name, deleted_details=True, subjects_filter=">")]
    return seen


async def messages_age(t):
    await t.stream("AGE", max_age=0.3, duplicate_window=0.3)
    await t.publish("AGE", "a", "b")
    return await until(lambda: t.state("AGE"), _is_empty)


async def interest_keeps_what_somebody_still_wants(t):
    await t.stream("INTEREST", retention=api.RetentionPolicy.INTEREST)
    await t.publish("INTEREST", "a")
    seen = [await t.state("INTEREST")]
    subs = [await t.js.pull_subscribe("interest.>", durable=name, stream="INTEREST") for name in ("one", "two")]
    await t.publish("INTEREST", "a", "b")
    for sub in subs:
        seen.append(await t.state("INTEREST"))
        for message in await sub.fetch(2, timeout=5):
            await message.ack_sync(timeout=10)
    return [seen, await until(lambda: t.state("INTEREST"), _is_empty)]


async def a_work_queue_gives_each_message_away_once(t):
    await t.stream("WORK", retention=api.RetentionPolicy.WORK_QUEUE)
    await t.publish("WORK", "a", "b", "a")
    sub = await t.js.pull_subscribe("work.a", durable="a", stream="WORK")
    refused = [await caught(t.add_consumer("WORK", "all")), await caught(t.add_consumer("WORK", "again", filter_subject="work.a"))]
    for message in await sub.fetch(2, timeout=5):
        await message.ack_sync(timeout=10)
    return [refused, await until(lambda: t.state("WORK", subjects_filter=">"), lambda state: state["messages"] == 1)]


async def an_id_is_taken_once_within_the_window(t):
    await t.stream("ONCE")

    async def publish(stream, identity):
        return plain(await t.js.publish(f"{stream}.a", b"x", headers={"Nats-Msg-Id": identity}))

    seen = [await publish("once", identity) for identity in ("x", "x", "y", "x")]
    await t.stream("LATER", duplicate_window=0.2)
    await publish("later", "x")
    return [seen, await until(lambda: publish("later", "x"), lambda ack: not ack["duplicate"])]


async def expectations_are_checked(t):
    await t.stream("EXPECT")
    tries = [
        {"Nats-Msg-Id": "first"}, {"Nats-Expected-Last-Sequence": "1"}, {"Nats-Expected-Last-Sequence": "1"}, {"Nats-Expected-Last-Subject-Sequence": "2"},
        {"Nats-Expected-Last-Subject-Sequence": "2"}, {"Nats-Expected-Stream": "EXPECT"}, {"Nats-Expected-Stream": "OTHER"}, {"Nats-Expected-Last-Msg-Id": "first"},
        {"Nats-Msg-Id": "second"}, {"Nats-Expected-Last-Msg-Id": "second"}, {"Nats-Rollup": "sub"},
    ]
    return [[headers, await caught(t.js.publish("expect.a", b"x", headers=dict(headers)))] for headers in tries]


async def messages_live_as_long_as_they_say(t):
    await t.stream("TTL", allow_msg_ttl=True)
    await t.stream("NOTTL")
    seen = [plain(await t.js.publish("ttl.a", b"x", msg_ttl=1)), plain(await t.js.publish("ttl.a", b"y"))]
    refused = await caught(t.js.publish("nottl.a", b"x", msg_ttl=1))
    return [seen, refused, await until(lambda: t.state("TTL"), lambda state: state["messages"] == 1)]


async def a_rollup_takes_what_was_before(t):
    await t.stream("ROLL", allow_rollup_hdrs=True)
    await t.publish("ROLL", "a", "b", "a")
    seen = []
    for subject, value in (("a", "sub"), ("b", "other"), ("c", "all")):
        seen.append([await caught(t.js.publish(f"roll.{subject}", b"", headers={"Nats-Rollup": value})), await t.state("ROLL", subjects_filter=">")])
    return seen


async def many_write_at_once(t):
    await t.stream("MANY", storage=api.StorageType.MEMORY, max_msgs_per_subject=1)

    async def write(subject):
        return [(await t.js.publish(f"many.{subject}", str(at).encode())).duplicate for at in range(30)]

    await asyncio.gather(*(write(subject) for subject in range(8)))
    state = await t.state("MANY", subjects_filter=">")
    return [state["messages"], state["last_seq"], state["subjects"]]
