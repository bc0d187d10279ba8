"""Begins and ends the service `recommendation`: reads the environment, serves until SIGTERM, ends in order."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import sqlite3
import sys
from urllib.parse import unquote

import log
from api import Api
from database import Writer, open_database
from serving import Server

# Seconds between two looks of Python's threads at who may run. The writer must not keep those waiting who ask.
SWITCH_INTERVAL = 0.0005


class EnvironmentProblem(Exception):
    """A variable that is missing or wrong; the message names it."""


def variable(name: str, expected: str, parse):
    value = os.environ.get(name)
    if value is None:
        raise EnvironmentProblem(f"{name} is not set: it must be {expected}")
    try:
        return parse(value)
    except ValueError:
        raise EnvironmentProblem(f"{name} is {value!r}: it must be {expected}") from None


def parse_port(value: str) -> int:
    port = int(value)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def parse_database(value: str) -> str:
    if not value.startswith("sqlite:///"):
        raise ValueError
    return unquote(value[len("sqlite://") :], errors="surrogateescape")


async def run() -> None:
    host = variable("HOST", "an IP address", lambda value: str(ipaddress.ip_address(value)))
    port = variable("PORT", "a port number", parse_port)
    path = variable("DATABASE_URL", "an address such as sqlite:///absolute/path.db", parse_database)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    writer = Writer(path)
    reader = open_database(path, "NORMAL")
    server = Server(Api(reader, writer).serve)
    port = await server.listen(host, port)
    log.write("info", "listening", address=f"{host}:{port}")
    await stop.wait()
    await server.drain()
    await writer.close()
    reader.close()
    log.write("info", "stopped")


def main() -> int:
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        asyncio.run(run())
    except (EnvironmentProblem, OSError, sqlite3.Error) as error:
        log.write("error", "cannot start", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
