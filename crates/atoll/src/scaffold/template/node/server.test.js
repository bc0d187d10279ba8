// Tests of hello-service: `node --test` in this folder. Each speaks to a real server on a port of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { Problem, call, contextOf, createServer } from "./server.js";

async function start(test, server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  test.after(() => {
    server.closeAllConnections?.();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

test("it says hello and is ready", async (t) => {
  const base = await start(t, createServer());
  const answer = await fetch(`${base}/hello?name=Ada`);
  assert.deepEqual([answer.status, await answer.json()], [200, { message: "Hello, Ada!" }]);
  assert.equal((await fetch(`${base}/readyz`)).status, 200);
});

test("refusals are problem documents", async (t) => {
  const base = await start(t, createServer());
  const cases = [
    ["GET", "/nothing", undefined, 404],
    ["DELETE", "/hello", undefined, 405],
    ["GET", `/hello?name=${"x".repeat(101)}`, undefined, 400],
    ["POST", "/hello", "x".repeat(70_000), 413],
  ];
  for (const [method, path, body, status] of cases) {
    const answer = await fetch(base + path, { method, body });
    assert.equal(answer.status, status, path);
    assert.equal(answer.headers.get("content-type"), "application/problem+json");
    assert.equal((await answer.json()).status, status);
  }
});

test("a call passes on the trace, the id and the time left", async (t) => {
  const upstream = http.createServer((request, response) => {
    response.statusCode = request.url === "/" ? 200 : 500;
    response.end(JSON.stringify(request.headers));
  });
  const base = await start(t, upstream);
  const brought = { traceparent: "00-a-b-01", "x-request-id": "r1", "atoll-deadline": "1000", cookie: "secret" };
  const seen = await call(contextOf(brought), `${base}/`);
  assert.deepEqual([seen.traceparent, seen["x-request-id"], seen.cookie], ["00-a-b-01", "r1", undefined]);
  assert.ok(Number(seen["atoll-deadline"]) <= 900);
  await assert.rejects(call(contextOf({}), `${base}/fails`), (error) => error instanceof Problem && error.status === 502);
});

test("a call without time left is not made", async () => {
  const context = contextOf({ "atoll-deadline": "0" });
  await assert.rejects(call(context, "http://127.0.0.1:1/"), (error) => error.status === 504);
});

test("SIGTERM ends it in order", async () => {
  const free = net.createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address();
  free.close();
  await once(free, "close");
  const env = { ...process.env, HOST: "127.0.0.1", PORT: String(port) };
  const child = spawn(process.execPath, ["server.js"], { cwd: import.meta.dirname ?? ".", env, stdio: ["ignore", "pipe", "inherit"] });
  const exit = once(child, "exit");
  const messages = [];
  for await (const line of createInterface({ input: child.stdout })) {
    messages.push(JSON.parse(line).message);
    if (messages.length === 1) {
      child.kill("SIGTERM");
    }
  }
  assert.deepEqual(await exit, [0, null]);
  assert.deepEqual(messages, ["listening", "stopped"]);
});
