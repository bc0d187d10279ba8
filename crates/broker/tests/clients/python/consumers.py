"""Consumers as nats-py manages and uses them: their life, pulls, acks, redelivery, where they begin, what they filter, pushes."""

import datetime
import json

import nats
from nats.js import api
from run import BOUND, caught, config, counts, flush, shown, until

NONE, ALL, EXPLICIT = api.AckPolicy.NONE, api.AckPolicy.ALL, api.AckPolicy.EXPLICIT


def _nanos(seconds):
    return int(seconds * 1e9)


async def _ready(t, name, **options):
    """Five messages and a consumer."""
    await t.stream(name)
    await t.publish(name, "a", "b", "a", "c", "a")
    await t.add_consumer(name, "c", **options)


async def _config(awaitable):
    return config(await awaitable)


async def _nothing(fetched):
    """Whether nothing came. What it is told then is a race of the client's clock with the server's."""
    try:
        return await fetched == []
    except nats.errors.TimeoutError:
        return True


async def a_consumer_lives(t):
    await t.stream("LIFE")
    await t.publish("LIFE", "a", "b")
    made = await t.add_consumer("LIFE", "one", description="d", metadata={"a": "b"})
    ephemeral = await t.js.add_consumer("LIFE", ack_policy=NONE)
    again = await caught(_config(t.add_consumer("LIFE", "one", description="d", metadata={"a": "b"})))
    changed = await caught(_config(t.add_consumer("LIFE", "one", description="new", max_ack_pending=7)))
    listed = sorted("EPHEMERAL" if info.name == ephemeral.name else info.name for info in await t.js.consumers_info("LIFE"))
    state = await t.consumer("LIFE", "one")
    removed = await t.js.delete_consumer("LIFE", "one")
    gone = [await caught(t.js.consumer_info("LIFE", "one")), await caught(t.js.delete_consumer("LIFE", "one")), await caught(t.js.consumer_info("NOT", "x"))]
    own = {key: value for key, value in config(ephemeral).items() if key != "name"}
    return [config(made), own, again, changed, listed, state, removed, gone]


async def every_field_of_a_config_is_kept(t):
    await t.stream("FIELDS")
    made = await t.add_consumer(
        "FIELDS", "c", deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=3, ack_wait=5, max_deliver=4, backoff=[0.1, 2],
        filter_subjects=["fields.a", "fields.b.>"], replay_policy=api.ReplayPolicy.ORIGINAL, sample_freq="50%", max_waiting=9, max_ack_pending=11,
        headers_only=True, inactive_threshold=100, num_replicas=1, mem_storage=True, metadata={"k": "v"},
    )
    return config(made)


async def wrong_consumers_are_refused(t):
    await t.stream("WRONG")
    tries = [
        {"deliver_policy": api.DeliverPolicy.BY_START_SEQUENCE}, {"opt_start_seq": 3}, {"filter_subject": "wrong.a", "filter_subjects": ["wrong.b"]},
        {"filter_subjects": ["wrong.>", "wrong.a"]}, {"max_deliver": 1, "backoff": [1, 2]}, {"deliver_policy": api.DeliverPolicy.LAST_PER_SUBJECT},
        {"flow_control": True}, {"deliver_subject": "wrong.x"}, {"num_replicas": 3}, {"sample_freq": "x"}, {"rate_limit_bps": 1000},
    ]
    return [[list(options), await caught(_config(t.add_consumer("WRONG", f"c{at}", **options)))] for at, options in enumerate(tries)]


async def a_fetch_gives_what_there_is(t):
    await t.stream("FETCH")
    await t.publish("FETCH", "a", "b", "a", "c", "a")
    sub = await t.js.pull_subscribe("fetch.>", durable="c", stream="FETCH")
    seen = []
    for batch in (1, 2, 10):
        messages = await sub.fetch(batch, timeout=2)
        seen.append([shown(message) for message in messages])
        for message in messages:
            await message.ack_sync(timeout=10)
    late = [await _nothing(sub.fetch(1, timeout=0.2)), await _nothing(sub.fetch(3, timeout=0.2)), await _nothing(sub.fetch(1, timeout=0.5, heartbeat=0.2))]
    await sub.unsubscribe()
    return [seen, late, await t.consumer("FETCH", "c")]


async def a_pull_ends_as_it_was_asked_to(t):
    await _ready(t, "PULL")
    seen = []
    for request in (
        {"batch": 2}, {"batch": 10, "no_wait": True}, {"batch": 1, "no_wait": True}, {"batch": 3, "expires": _nanos(0.1)},
        {"batch": 1, "expires": _nanos(0.1), "idle_heartbeat": _nanos(0.09)},
    ):
        seen.append([request, (await t.pull("PULL", "c", request))[0]])
    await t.js.publish("pull.big", b"x" * 200)
    await until(lambda: t.consumer("PULL", "c"), lambda state: state["num_pending"] == 1)
    small = (await t.pull("PULL", "c", {"batch": 10, "max_bytes": 20, "expires": _nanos(0.2)}))[0]
    beats = (await t.pull("PULL", "c", {"batch": 5, "expires": _nanos(0.5), "idle_heartbeat": _nanos(0.2)}))[0]
    return [seen, small, list(dict.fromkeys(beats))]


async def pulls_have_a_bound(t):
    await t.stream("BOUNDS")
    await t.add_consumer("BOUNDS", "c", max_waiting=1)
    inbox = t.nc.new_inbox()
    sub = await t.nc.subscribe(inbox)
    for _ in range(2):
        await t.nc.publish("$JS.API.CONSUMER.MSG.NEXT.BOUNDS.c", json.dumps({"batch": 1, "expires": _nanos(0.5)}).encode(), inbox)
    return [shown(await sub.next_msg(BOUND)) for _ in range(2)]


async def acks_move_the_floor(t):
    seen = {}
    for policy in (NONE, ALL, EXPLICIT):
        name = f"FLOOR{policy.value.upper()}"
        await _ready(t, name, ack_policy=policy)
        _, messages = await t.pull(name, "c", {"batch": 4})
        steps = [await t.consumer(name, "c")]
        for at in {NONE: [], ALL: [2], EXPLICIT: [1, 3, 0]}[policy]:
            await messages[at].ack_sync(timeout=10)
            steps.append(await t.consumer(name, "c"))
        seen[policy.value] = steps
    return seen


async def every_kind_of_ack_does_its_own(t):
    await _ready(t, "KINDS", ack_wait=30)
    sub = await t.js.pull_subscribe_bind("c", stream="KINDS")
    messages = {message.metadata.sequence.stream: message for message in await sub.fetch(5, timeout=2)}
    await messages[1].ack()
    await messages[2].ack_sync(timeout=10)
    await messages[3].nak()
    again = [shown(message) for message in await sub.fetch(1, timeout=5)]
    await messages[4].term()
    await messages[5].in_progress()
    await messages[5].nak(delay=0.1)
    late = [shown(message) for message in await sub.fetch(1, timeout=5)]
    twice = (await caught(messages[1].ack()))["error"]
    return [again, late, twice, await until(lambda: t.consumer("KINDS", "c"), lambda state: state["ack_floor"] == "2/2" and state["num_ack_pending"] == 2)]


async def what_is_not_acked_comes_again(t):
    await _ready(t, "AGAIN", ack_wait=0.15)
    first = (await t.pull("AGAIN", "c", {"batch": 5}))[0]
    second = (await t.pull("AGAIN", "c", {"batch": 5, "expires": _nanos(5)}))[0]
    await _ready(t, "BACK", backoff=[0.05, 0.1], max_deliver=3, filter_subject="back.b")
    back = [(await t.pull("BACK", "c", {"batch": 1, "expires": _nanos(5)}))[0] for _ in range(3)]
    return [first, second, back]


async def deliveries_have_a_bound_and_it_is_told(t):
    await _ready(t, "DELIVER", max_deliver=2, ack_wait=0.1, filter_subject="deliver.b")
    told = await t.nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.DELIVER.*")
    seen = [(await t.pull("DELIVER", "c", {"batch": 1, "expires": _nanos(5)}))[0] for _ in range(2)]
    seen.append((await t.pull("DELIVER", "c", {"batch": 1, "expires": _nanos(0.4)}))[0])
    event = json.loads((await told.next_msg(BOUND)).data)
    return [seen, {key: value for key, value in event.items() if key not in ("id", "timestamp")}]


async def what_may_be_pending_has_a_bound(t):
    await _ready(t, "PENDING", max_ack_pending=2)
    seen, messages = await t.pull("PENDING", "c", {"batch": 4, "expires": _nanos(0.3)})
    await messages[1].ack_sync(timeout=10)
    more, _ = await t.pull("PENDING", "c", {"batch": 4, "expires": _nanos(0.3)})
    return [seen, more, await t.consumer("PENDING", "c")]


async def a_consumer_begins_where_it_is_told_to(t):
    await t.stream("BEGIN")
    await t.publish("BEGIN", "a", "b", "a")
    middle = (await t.request("$JS.API.STREAM.MSG.GET.BEGIN", {"seq": 3}))["message"]["time"]
    await t.publish("BEGIN", "b", "c")
    policy = api.DeliverPolicy
    policies = {
        "all": {}, "last": {"deliver_policy": policy.LAST}, "new": {"deliver_policy": policy.NEW},
        "sequence": {"deliver_policy": policy.BY_START_SEQUENCE, "opt_start_seq": 4},
        "subjects": {"deliver_policy": policy.LAST_PER_SUBJECT, "filter_subject": "begin.>"},
        "future": {"deliver_policy": policy.BY_START_TIME, "opt_start_time": datetime.datetime(2124, 1, 1, tzinfo=datetime.timezone.utc)},
    }
    for name, options in policies.items():
        await t.add_consumer("BEGIN", name, **options)
    await t.request("$JS.API.CONSUMER.CREATE.BEGIN.time", {"stream_name": "BEGIN", "config": {"name": "time", "deliver_policy": "by_start_time", "opt_start_time": middle}})
    await t.publish("BEGIN", "a")
    pulled = {name: (await t.pull("BEGIN", name, {"batch": 10, "no_wait": True}))[0] for name in (*policies, "time")}
    # nats-server counts what is pending a little later than it delivers it.
    return {name: [line.split(" +")[0] for line in lines] for name, lines in pulled.items()}


async def filters_let_through_what_matches(t):
    await _ready(t, "FILTER", filter_subjects=["filter.a", "filter.c"])
    await t.add_consumer("FILTER", "one", filter_subject="filter.b")
    seen = []
    for name in ("c", "one"):
        seen.append([(await t.pull("FILTER", name, {"batch": 10, "no_wait": True}))[0], await t.consumer("FILTER", name)])
    return seen


async def headers_may_be_all_that_comes(t):
    await t.stream("HEADERS")
    await t.js.publish("headers.a", b"some text", headers={"One": "1"})
    await t.add_consumer("HEADERS", "c", headers_only=True)
    _, [message] = await t.pull("HEADERS", "c", {"batch": 1})
    return [message.data.decode(), dict(message.headers)]


async def idle_consumers_go(t):
    await t.stream("IDLE")
    info = await t.js.add_consumer("IDLE", ack_policy=EXPLICIT, inactive_threshold=0.2)
    return await until(lambda: t.consumer("IDLE", info.name), lambda answer: "err_code" in answer)


async def a_paused_consumer_waits(t):
    await _ready(t, "PAUSE")
    paused = await t.js.pause_consumer("PAUSE", "c", "2124-01-01T00:00:00Z")
    quiet = (await t.pull("PAUSE", "c", {"batch": 1, "expires": _nanos(0.2)}))[0]
    state = await t.consumer("PAUSE", "c")
    resumed = await t.js.resume_consumer("PAUSE", "c")
    return [paused.paused, quiet, state, resumed.paused, (await t.pull("PAUSE", "c", {"batch": 1}))[0]]


async def a_push_consumer_sends_to_its_subject(t):
    await t.stream("PUSH")
    await t.publish("PUSH", "a", "b", "a", "c")
    sub = await t.js.subscribe("push.>", stream="PUSH", config=api.ConsumerConfig(max_ack_pending=2, ack_wait=30))
    seen = []
    for _ in range(4):
        message = await sub.next_msg(BOUND)
        seen.append(shown(message))
        await message.ack_sync(timeout=10)
    info = await t.request(f"$JS.API.CONSUMER.INFO.PUSH.{(await sub.consumer_info()).name}")
    await sub.unsubscribe()
    return [seen, counts(info)]


async def a_durable_push_consumer_goes_on(t):
    await t.stream("DURABLE")
    await t.publish("DURABLE", "a", "b")
    sub = await t.js.subscribe("durable.>", stream="DURABLE", durable="d", manual_ack=True)
    first = await sub.next_msg(BOUND)
    await first.ack_sync(timeout=10)
    bound = await caught(t.js.subscribe("durable.>", stream="DURABLE", durable="d"))
    await t.consumer("DURABLE", "d")
    return [shown(first), bound, shown(await sub.next_msg(BOUND))]


async def ordered_consumers_see_everything_in_order(t):
    await t.stream("ORDERED")
    for at in range(50):
        await t.js.publish(f"ordered.{at % 3}", str(at).encode())
    sub = await t.js.subscribe("ordered.>", stream="ORDERED", ordered_consumer=True, idle_heartbeat=0.3)
    seen = [(await sub.next_msg(BOUND)).metadata.sequence.stream for _ in range(50)]
    held = {key: value for key, value in config(await sub.consumer_info()).items() if key not in ("name", "deliver_subject")}
    await t.js.publish("ordered.late", b"x")
    late = (await sub.next_msg(BOUND)).metadata.sequence.stream
    await sub.unsubscribe()
    return [seen, held, late]


async def a_deliver_group_shares_what_is_pushed(t):
    await t.stream("GROUP")
    other = await nats.connect(t.servers["plain"])
    subs = [await client.jetstream().subscribe("group.>", "crew", stream="GROUP") for client in (t.nc, other)]
    for at in range(40):
        await t.js.publish("group.x", str(at).encode())
    await until(lambda: t.consumer("GROUP", "crew"), lambda state: state["delivered"] == "40/40")
    await flush(t.nc)
    await flush(other)
    got = [[int((await sub.next_msg(BOUND)).data) for _ in range(sub.pending_msgs)] for sub in subs]
    await other.close()
    return [sorted(number for numbers in got for number in numbers), all(got)]
