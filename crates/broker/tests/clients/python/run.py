"""Runs the scenarios of one file at once, each over a connection of its own, and prints one JSON line for each:
`{"name": …, "result": …}`, or `"failed"` instead. `python3 run.py AREA SERVERS`, where SERVERS is JSON. What is observed must
not hold anything random: it is compared with what another server does.
"""

import asyncio
import importlib
import inspect
import json
import sys
import traceback

import nats
from nats.js import api

BOUND = 20


class Test:
    """What every scenario is given."""

    def __init__(self, nc, servers):
        self.nc, self.js, self.servers = nc, nc.jetstream(timeout=10), servers

    async def stream(self, name, **config):
        """A stream of a name, with the subjects below it in lower case."""
        return await self.js.add_stream(name=name, **{"subjects": [f"{name.lower()}.>"], **config})

    async def publish(self, name, *subjects):
        """Publishes `1`, `2`, … to subjects below the stream's."""
        for at, subject in enumerate(subjects):
            await self.js.publish(f"{name.lower()}.{subject}", str(at + 1).encode())

    async def request(self, subject, body=b""):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.loads((await self.nc.request(subject, data, timeout=10)).data)

    async def state(self, name, **options):
        answer = await self.request(f"$JS.API.STREAM.INFO.{name}", options or b"")
        if "error" in answer:
            return answer["error"]
        return {key: value for key, value in answer["state"].items() if key not in ("bytes", "first_ts", "last_ts")}

    async def consumer(self, stream, name):
        answer = await self.request(f"$JS.API.CONSUMER.INFO.{stream}.{name}")
        return answer["error"] if "error" in answer else counts(answer)

    async def add_consumer(self, stream, name, **config):
        return await self.js.add_consumer(stream, api.ConsumerConfig(name=name, durable_name=name, **config))

    async def pull(self, stream, consumer, request, want=None):
        """A pull request as bytes: what comes until a status other than 100 or until so many messages are there."""
        inbox = self.nc.new_inbox()
        sub = await self.nc.subscribe(inbox)
        await self.nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", json.dumps(request).encode(), inbox)
        seen, messages = [], []
        while len(messages) < (want or request.get("batch", 1)):
            message = await sub.next_msg(BOUND)
            seen.append(shown(message))
            status = (message.headers or {}).get("Status")
            if status is None:
                messages.append(message)
            elif status != "100":
                break
        await sub.unsubscribe()
        return seen, messages


async def flush(nc):
    """The client's PING overtakes what it has not written yet: the second one does not."""
    await nc.flush()
    await nc.flush()


async def until(ask, holds):
    """What is asked for, once it is as it should be."""
    end = asyncio.get_running_loop().time() + BOUND / 2
    while True:
        value = await ask()
        if holds(value):
            return value
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"waited in vain, last: {value}")
        await asyncio.sleep(0.02)


def shown(message):
    """`subject payload @stream/consumer xdelivered +pending`, or a status with its headers."""
    held = dict(message.headers or {})
    if "Status" in held:
        first = f"{held.pop('Status')} {held.pop('Description', '')}"
        return "; ".join([first, *(f"{key}: {value}" for key, value in sorted(held.items()))])
    tokens = (message.reply or "").split(".")
    if len(tokens) < 9 or tokens[1] != "ACK":
        return f"{message.subject} {message.data.decode()}"
    delivered, stream, consumer, _, pending = tokens[-5:]
    return f"{message.subject} {message.data.decode()} @{stream}/{consumer} x{delivered} +{pending}"


async def caught(awaitable):
    """Of an error what the server has said, or else its kind."""
    try:
        return {"ok": plain(await awaitable)}
    except Exception as error:
        code = getattr(error, "err_code", None)
        if code is not None:
            return {"code": error.code, "err_code": code, "description": error.description}
        return {"error": type(error).__name__, "text": getattr(error, "description", None) or str(error)}


def plain(value):
    """A PubAck, or what is JSON already."""
    if isinstance(value, api.PubAck):
        return {"stream": value.stream, "seq": value.seq, "duplicate": value.duplicate}
    return value


def config(info):
    """As the client has read it, without what a server adds by its version."""
    held = info.config.as_dict()
    metadata = {key: value for key, value in (held.pop("metadata", None) or {}).items() if not key.startswith("_nats.")}
    return {**held, "metadata": metadata}


def counts(info):
    def pair(held):
        return f"{held['consumer_seq']}/{held['stream_seq']}"

    keys = ("num_ack_pending", "num_redelivered", "num_waiting", "num_pending", "push_bound", "paused")
    return {
        "delivered": pair(info["delivered"]),
        "ack_floor": pair(info["ack_floor"]),
        **{key: info[key] for key in keys if key in info},
    }


async def one(name, scenario, servers):
    nc = await nats.connect(servers["plain"], allow_reconnect=False)
    try:
        result = await asyncio.wait_for(scenario(Test(nc, servers)), BOUND)
        print(json.dumps({"name": name, "result": result}), flush=True)
    except BaseException:
        print(json.dumps({"name": name, "failed": traceback.format_exc()}), flush=True)
    finally:
        await nc.close()


async def main(area, servers):
    module = importlib.import_module(area)
    scenarios = {
        name: function
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if function.__module__ == area and not name.startswith("_")
    }
    await asyncio.gather(*(one(name, function, servers) for name, function in scenarios.items()))


if __name__ == "__main__":
    # What the scenarios import is this very module.
    sys.modules["run"] = sys.modules["__main__"]
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
