// hello-service: listens on $HOST:$PORT, answers JSON, logs JSON lines, and finishes what has begun on SIGTERM.
// Only the standard library. What the platform gives is read from the environment; nothing of the platform is imported.

import http from "node:http";
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

const BODY_BYTES_MAX = 64 * 1024;
const CALL_MS_MAX = 2000;
// Shorter than the platform's grace of ten seconds.
const STOP_MS_MAX = 9000;
const PASSED_ON = ["traceparent", "tracestate", "x-request-id"];

export function log(level, message, fields = {}) {
  console.log(JSON.stringify({ level, message, ...fields }));
}

/** A refusal, answered as a problem document (RFC 9457). */
export class Problem extends Error {
  constructor(status, detail, options) {
    super(detail, options);
    this.status = status;
  }
}

/** What a request brought along for the calls that are made for it: its trace, its id, and the time left. */
export function contextOf(headers) {
  const passedOn = Object.fromEntries(PASSED_ON.filter((name) => headers[name]).map((name) => [name, headers[name]]));
  const left = /^\d{1,9}$/.test(headers["atoll-deadline"] ?? "") ? Number(headers["atoll-deadline"]) : null;
  return { passedOn, deadline: left === null ? null : performance.now() + left };
}

/** Calls an upstream, such as `${process.env.OTHER_URL}/path`, and gives its JSON; throws a Problem if that fails. */
export async function call(context, url, { method = "GET", body } = {}) {
  // A tenth of what is left is kept, to answer with when the call fails.
  const left = context.deadline === null ? CALL_MS_MAX : (context.deadline - performance.now()) * 0.9;
  const ms = Math.floor(Math.min(CALL_MS_MAX, left));
  if (ms < 1) {
    throw new Problem(504, "no time is left for the call");
  }
  const headers = { ...context.passedOn, "atoll-deadline": String(ms), accept: "application/json" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
  }
  const signal = AbortSignal.timeout(ms);
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const answer = await fetch(url, { method, headers, body: text, signal });
    if (!answer.ok) {
      await answer.body?.cancel();
      throw new Problem(502, `an upstream answered ${answer.status}`);
    }
    return await answer.json();
  } catch (error) {
    if (error instanceof Problem) {
      throw error;
    }
    if (signal.aborted) {
      throw new Problem(504, "an upstream did not answer in time", { cause: error });
    }
    throw new Problem(502, "an upstream cannot be called", { cause: error });
  }
}

function hello({ query }) {
  const name = query.get("name") ?? "world";
  if (name.length > 100) {
    throw new Problem(400, "`name` is longer than 100 characters");
  }
  return { message: `Hello, ${name}!` };
}

function readyz() {
  return { status: "ready" };
}

// Method by path: add yours here. Each is given { context, query, body }.
const ROUTES = new Map([
  ["/hello", new Map([["GET", hello]])],
  ["/readyz", new Map([["GET", readyz]])],
]);

async function answer(request, path, query) {
  const body = await readBody(request);
  const methods = ROUTES.get(path);
  if (!methods) {
    throw new Problem(404, "there is nothing at this path");
  }
  const handler = methods.get(request.method === "HEAD" ? "GET" : request.method);
  if (!handler) {
    throw new Problem(405, `this path takes ${[...methods.keys()].join(", ")}`);
  }
  return handler({ context: contextOf(request.headers), query, body });
}

async function readBody(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    length += chunk.length;
    if (length > BODY_BYTES_MAX) {
      throw new Problem(413, `a body may have ${BODY_BYTES_MAX} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function handle(request, response) {
  const begun = performance.now();
  const [path, query = ""] = request.url.split(/\?(.*)/s);
  let [status, body, type] = [200, null, "application/json"];
  try {
    body = await answer(request, path, new URLSearchParams(query));
  } catch (error) {
    if (!(error instanceof Problem)) {
      log("error", "request failed", { path, error: String(error?.stack ?? error) });
    }
    [status, type] = [error instanceof Problem ? error.status : 500, "application/problem+json"];
    const detail = error instanceof Problem ? error.message : "this service failed; its log says why";
    body = { status, detail };
  }
  const text = JSON.stringify(body);
  // What was not read of a body must not be taken for the next request.
  const end = request.complete ? {} : { connection: "close" };
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(text), ...end });
  response.end(request.method === "HEAD" ? undefined : text);
  if (path !== "/readyz" || status >= 400) {
    const ms = Math.round((performance.now() - begun) * 100) / 100;
    log("info", "request", { method: request.method, path, status, ms, request_id: request.headers["x-request-id"] });
  }
}

export function createServer() {
  const server = http.createServer((request, response) => {
    handle(request, response).catch((error) => {
      log("info", "a connection broke", { error: String(error) });
      response.destroy();
    });
  });
  // Longer than proxies keep their connections.
  server.keepAliveTimeout = 120_000;
  return server;
}

function main() {
  const server = createServer();
  const stop = () => {
    // Idle connections are closed, the others after their answer.
    server.close(() => log("info", "stopped"));
    setTimeout(() => {
      log("error", "stopped before every request had finished");
      process.exit(1);
    }, STOP_MS_MAX).unref();
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  server.on("error", (error) => {
    log("error", "cannot listen", { error: String(error) });
    process.exitCode = 1;
  });
  const { HOST, PORT } = process.env;
  server.listen(Number(PORT), HOST, () => log("info", "listening", { address: `${HOST}:${PORT}` }));
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main();
}
