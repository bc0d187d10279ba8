"""The client protocol as nats-py uses it: subjects, headers, queue groups, requests, limits, ends, proofs and permissions."""

import asyncio
import ssl

import nats
from run import BOUND, caught, flush, until


async def _take(sub, count):
    return [(await sub.next_msg(BOUND)).data.decode() for _ in range(count)]


async def messages_come_in_order(t):
    sub = await t.nc.subscribe("order")
    for number in range(200):
        await t.nc.publish("order", str(number).encode())
    return await _take(sub, 200)


async def headers_are_carried(t):
    sub = await t.nc.subscribe("headers")
    await t.nc.publish("headers", b"x", headers={"One": "1", "Other": "two words"})
    await t.nc.publish("headers", b"")
    messages = [await sub.next_msg(BOUND) for _ in range(2)]
    return [[dict(message.headers or {}), message.data.decode()] for message in messages]


async def wildcards_match_tokens(t):
    patterns = ["wild.*", "wild.>", "wild.*.b", "*.a", "wild.a"]
    subs = [await t.nc.subscribe(pattern) for pattern in patterns]
    for subject in ["wild.a", "wild.b", "wild.a.b", "wild", "wild.a.b.c"]:
        await t.nc.publish(subject, subject.encode())
    await flush(t.nc)
    return [[pattern, await _take(sub, sub.pending_msgs)] for pattern, sub in zip(patterns, subs)]


async def a_queue_group_gets_each_message_once(t):
    subs = [await t.nc.subscribe("queue.work", queue="crew") for _ in range(3)]
    watching = await t.nc.subscribe("queue.work")
    for number in range(90):
        await t.nc.publish("queue.work", str(number).encode())
    await flush(t.nc)
    got = [await _take(sub, sub.pending_msgs) for sub in subs]
    return [sorted(int(text) for texts in got for text in texts), all(got), watching.pending_msgs]


async def requests_are_answered(t):
    other = await nats.connect(t.servers["plain"])

    async def answer(message):
        asked = (message.headers or {}).get("Question", "nothing")
        await other.publish(message.reply, message.data + b"!", headers={"Asked": asked})

    await other.subscribe("service", cb=answer)
    await flush(other)
    answers = []
    for old_style in (False, True):
        reply = await t.nc.request("service", b"yes", timeout=BOUND, old_style=old_style, headers={"Question": "why"})
        answers.append([reply.data.decode(), dict(reply.headers)])
    replies = await asyncio.gather(*(t.nc.request("service", str(at).encode(), timeout=BOUND) for at in range(50)))
    answers.append([reply.data.decode() for reply in replies])
    await other.close()
    return answers


async def nobody_answers(t):
    await t.nc.subscribe("silent")
    return [await caught(t.nc.request("nobody.here", timeout=BOUND)), await caught(t.nc.request("silent", timeout=0.05))]


async def payloads_have_a_bound(t):
    most = t.nc.max_payload
    sub = await t.nc.subscribe("big")
    await t.nc.publish("big", bytes(most))
    return [most, len((await sub.next_msg(BOUND)).data), await caught(t.nc.publish("big", bytes(most + 1)))]


async def a_subscription_ends_after_so_many(t):
    got = []

    async def note(message):
        got.append(message.data.decode())

    early = await t.nc.subscribe("ends", cb=note)
    late = await t.nc.subscribe("ends")
    await early.unsubscribe(2)
    for text in (b"1", b"2", b"3"):
        await t.nc.publish("ends", text)
    seen = await _take(late, 3)
    await until(lambda: asyncio.sleep(0, len(got)), lambda count: count == 2)
    return [got, seen]


async def what_was_sent_before_a_drain_comes(t):
    other, got = await nats.connect(t.servers["plain"]), []

    async def note(message):
        got.append(message.data.decode())

    await other.subscribe("drained", cb=note)
    await flush(other)
    for text in (b"1", b"2", b"3"):
        await t.nc.publish("drained", text)
    await flush(t.nc)
    await other.drain()
    return [got, other.is_closed]


async def users_prove_who_they_are(t):
    servers = t.servers
    trusted = ssl.create_default_context(cafile=servers["ca"])

    tries = {
        "password": {"servers": servers["users"], "user": "cart", "password": "cart"},
        "wrong": {"servers": servers["users"], "user": "cart", "password": "x"},
        "unknown": {"servers": servers["users"], "user": "nobody", "password": "x"},
        "nothing": {"servers": servers["users"]},
        "nkey": {"servers": servers["users"], "nkeys_seed_str": servers["seed"]},
        "stranger": {"servers": servers["users"], "nkeys_seed_str": servers["stranger"]},
        "token": {"servers": servers["token"], "token": "open"},
        "shut": {"servers": servers["token"], "token": "shut"},
        "tls": {"servers": servers["tls"], "tls": trusted, "tls_hostname": "localhost"},
    }

    async def prove(name, options):
        errors = []

        async def note(error):
            errors.append(f"{type(error).__name__}: {error}")

        try:
            nc = await nats.connect(**options, allow_reconnect=False, error_cb=note)
        except Exception as error:
            return sorted({*errors, f"{type(error).__name__}: {error}"})
        sub = await nc.subscribe("proof")
        await nc.publish("proof", name.encode())
        [text] = await _take(sub, 1)
        await nc.close()
        return text

    return {name: await prove(name, options) for name, options in tries.items()}


async def users_do_what_they_may(t):
    errors = []

    async def note(error):
        errors.append(str(error))

    nc = await nats.connect(t.servers["users"], user="cart", password="cart", allow_reconnect=False, error_cb=note)
    for pattern in ("events.in", "salaries.*", ">"):
        await nc.subscribe(pattern)
    await nc.publish("events.out", b"")
    await nc.publish("events.other", b"")
    await flush(nc)
    await until(lambda: asyncio.sleep(0, len(errors)), lambda count: count == 3)
    await nc.close()
    return errors
