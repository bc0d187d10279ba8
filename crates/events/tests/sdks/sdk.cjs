// CloudEvents' SDK for JavaScript as a peer; `sdk.py` beside it says what it does. In binary mode this SDK writes attributes
// as they are and reads them so, without percent-encoding: only what stands for itself is in those here.

const { CloudEvent, HTTP } = require("cloudevents");

const TIME = "2026-11-21T10:00:00.123Z";

function event(id, data, attributes) {
  return new CloudEvent({ id, source: "/sdk/js", type: "order.placed", time: TIME, data, ...attributes });
}

function bytes(data) {
  if (data === undefined || data === null) return Buffer.alloc(0);
  if (typeof data === "string") return Buffer.from(data);
  if (ArrayBuffer.isView(data)) return Buffer.from(data);
  return Buffer.from(JSON.stringify(data));
}

function tell(mode, event) {
  const { data, data_base64, ...attributes } = event.toJSON();
  const body = data_base64 === undefined ? bytes(event.data) : Buffer.from(data_base64, "base64");
  const given = Object.entries(attributes).filter(([, value]) => value !== undefined);
  const texts = Object.fromEntries(given.map(([name, value]) => [name, `${value}`]));
  console.log(JSON.stringify({ mode, attributes: texts, data: body.toString("base64") }));
}

async function post(url, headers, body) {
  const answer = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(20_000) });
  if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
}

/** What stands for itself in headers, or none of it. */
function plain(mode) {
  return [
    event(`${mode}-1`, { total: 7, name: "Jürgen €" }, { datacontenttype: "application/json" }),
    event(`${mode}-2`, "grüße", { datacontenttype: "text/plain", subject: "orders/1?a=b" }),
    event(`${mode}-3`, { a: [1, null] }, { datacontenttype: "application/json", extension: "x", number: 7, flag: true }),
  ];
}

function all(mode) {
  return [
    ...plain(mode),
    event(`${mode}-4`, { a: 1 }, { datacontenttype: "application/json", subject: "Euro € 😀 100% \"x\"" }),
    event(`${mode}-5`, new Uint8Array([0, 255, 128]), { datacontenttype: "application/octet-stream" }),
  ];
}

async function publish(url) {
  for (const one of plain("binary")) {
    const { headers, body } = HTTP.binary(one);
    await post(url, headers, body);
    tell("binary", one);
  }
  for (const one of all("structured")) {
    const { headers, body } = HTTP.structured(one);
    await post(url, headers, body);
    tell("structured", one);
  }
  const batched = all("batch");
  const batch = `[${batched.map((one) => HTTP.structured(one).body).join(",")}]`;
  await post(url, { "content-type": "application/cloudevents-batch+json" }, batch);
  for (const one of batched) tell("batch", one);
}

function parse() {
  const lines = require("fs").readFileSync(0, "utf8").split("\n").filter(Boolean);
  for (const { mode, headers, body } of lines.map((line) => JSON.parse(line))) {
    const read = HTTP.toEvent({ headers, body: Buffer.from(body, "base64").toString() });
    for (const one of [read].flat()) tell(mode, one);
  }
}

if (process.argv[2] === "publish") publish(process.argv[3]);
else parse();
