"""Key-value buckets as nats-py makes and uses them."""

from nats.js import api
from run import BOUND, caught, config, until


def _entry(held):
    return held and [held.key, (held.value or b"").decode(), held.revision, held.operation]


async def _got(awaitable):
    return _entry(await awaitable)


async def _made(awaitable):
    await awaitable
    return "made"


async def a_bucket_is_a_stream_of_its_own(t):
    await t.js.create_key_value(bucket="plain")
    await t.js.create_key_value(bucket="full", description="d", history=5, ttl=60, max_bytes=100_000, max_value_size=1000, storage=api.StorageType.MEMORY, direct=True)
    seen = [config(await t.js.stream_info(f"KV_{name}")) for name in ("plain", "full")]
    again = [await caught(_made(t.js.create_key_value(bucket="plain"))), await caught(_made(t.js.create_key_value(bucket="plain", history=3)))]
    return [seen, again, await caught(_made(t.js.key_value("missing"))), await t.js.delete_key_value("full"), await caught(_made(t.js.key_value("full")))]


async def values_are_put_and_got(t):
    seen = []
    for direct in (False, True):
        kv = await t.js.create_key_value(bucket=f"values{direct}", history=3, direct=direct)
        put = [await kv.put(key, value) for key, value in (("a", b"1"), ("b.c", b"2"), ("a", b"3"), ("=x/y-z_1", b""))]
        got = [await caught(_got(kv.get(key))) for key in ("a", "b.c", "=x/y-z_1", "missing")]
        old = [await caught(_got(kv.get("a", revision=revision))) for revision in (1, 2, 9)]
        seen.append([put, got, old])
    return seen


async def compare_and_set(t):
    kv = await t.js.create_key_value(bucket="cas", history=5)
    seen = [await kv.create("a", b"1"), await caught(kv.create("a", b"2")), await kv.update("a", b"3", last=1), await caught(kv.update("a", b"4", last=1)), await caught(kv.update("b", b"x", last=9))]
    await kv.delete("a")
    seen += [await caught(_got(kv.get("a"))), await kv.create("a", b"again"), await caught(kv.delete("a", last=1)), await caught(kv.delete("a", last=4))]
    await kv.purge("a")
    return [seen, await caught(_got(kv.get("a"))), await kv.create("a", b"z")]


async def history_and_keys(t):
    kv = await t.js.create_key_value(bucket="history", history=3)
    nothing = [await caught(kv.keys()), await caught(kv.history("a"))]
    for key, value in (("a", b"1"), ("a", b"2"), ("b", b"x"), ("a", b"3"), ("a", b"4"), ("c", b"y")):
        await kv.put(key, value)
    await kv.delete("c")
    seen = [[_entry(held) for held in await kv.history("a")], sorted(await kv.keys())]
    await kv.purge("a")
    seen += [[_entry(held) for held in await kv.history("a")], sorted(await kv.keys())]
    status = await kv.status()
    return [nothing, seen, [status.bucket, status.values, status.history, status.ttl]]


async def purging_deletes_leaves_what_is_alive(t):
    kv = await t.js.create_key_value(bucket="tidy", history=3)
    for key in ("a", "b", "c"):
        await kv.put(key, b"x")
    await kv.delete("a")
    await kv.purge("b")
    await kv.purge_deletes(olderthan=0)
    return await t.state("KV_tidy", subjects_filter=">")


async def a_watch_sees_what_is_and_what_comes(t):
    kv = await t.js.create_key_value(bucket="watch", history=2)
    for key, value in (("a", b"1"), ("a", b"2"), ("b.x", b"3")):
        await kv.put(key, value)
    watches = {
        "all": (await kv.watchall(), 7), "one": (await kv.watch("b.>"), 4), "history": (await kv.watch(">", include_history=True), 8),
        "alive": (await kv.watchall(ignore_deletes=True), 5), "headers": (await kv.watchall(meta_only=True), 7),
    }
    await kv.put("b.y", b"4")
    await kv.delete("b.x")
    await kv.put("c", b"5")
    await kv.purge("a")
    seen = {}
    for name, (watch, count) in watches.items():
        entries = [_entry(await watch.updates(timeout=BOUND)) for _ in range(count)]
        # When it says that all of the past was seen depends on what came meanwhile.
        seen[name] = [[entry for entry in entries if entry is not None], entries.count(None)]
        await watch.stop()
    return seen


async def values_and_markers_end(t):
    kv = await t.js.create_key_value(bucket="ttl", ttl=0.5)
    await kv.put("a", b"1")
    gone = await until(lambda: caught(_got(kv.get("a"))), lambda answer: "error" in answer)
    marked = await t.js.create_key_value(bucket="marked", limit_marker_ttl=1)
    await marked.create("a", b"1", msg_ttl=1)
    after = await until(lambda: t.state("KV_marked"), lambda state: state["last_seq"] == 2)
    return [gone, config(await t.js.stream_info("KV_marked")), after]


async def buckets_do_not_see_each_other(t):
    one, two = await t.js.create_key_value(bucket="one"), await t.js.create_key_value(bucket="two")
    await one.put("a", b"1")
    await two.put("a", b"2")
    seen = [_entry(await one.get("a")), _entry(await two.get("a"))]
    return [seen, await t.js.delete_key_value("one"), _entry(await two.get("a")), await caught(_got(one.get("a"))), await caught(one.put("a", b"x"))]
