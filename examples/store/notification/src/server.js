// HTTP: which path does what, with a bound on everything that a client can make grow or last. Paths are logged as
// their patterns: they hold addresses, and the tokens that end a subscription.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { STATUS_CODES, createServer } from 'node:http';

import { Malformed } from './events.js';
import * as log from './log.js';
import { parseAddress, parseHead, parseText } from './mail.js';
import * as pages from './pages.js';

export const BODY_BYTES_MAX = 256 * 1024;
const CONNECTIONS_MAX = 512;
/** Events that are being handled. One more is refused: whoever sent it tries again. */
const EVENTS_MAX = 256;
const PAGE_SIZE = 25;
const PAGE_MAX = 1000;
const TEXT_MAX = 300;

const STYLE = readFileSync(new URL('../assets/mail.css', import.meta.url));
const DOCUMENT = readFileSync(new URL('../openapi.json', import.meta.url));
const VERSION = createHash('sha256').update(STYLE).digest('hex').slice(0, 12);

/** The address of the style has its version. */
const FOREVER = 'public, max-age=31536000, immutable';
const GUARDS = {
  'content-security-policy':
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'same-origin',
  'x-frame-options': 'DENY',
  'cache-control': 'private, no-cache',
};

/** A refusal as an RFC 9457 document, or as a page where one is wanted. */
class Problem extends Error {
  constructor(status, detail, headers = {}) {
    super(detail);
    Object.assign(this, { status, headers });
  }
}

const ROUTES = [
  ['GET', '/', list],
  ['GET', '/mails/{id}.eml', readSource],
  ['GET', '/mails/{id}', read],
  ['POST', '/subscribers', joinByForm],
  ['GET', '/subscribers/{email}', showSubscriber],
  ['PUT', '/subscribers/{email}', putSubscriber],
  ['DELETE', '/subscribers/{email}', deleteSubscriber],
  ['GET', '/unsubscribe/{token}', askUnsubscribe],
  ['POST', '/unsubscribe/{token}', unsubscribe],
  ['POST', '/events', takeEvent],
  ['GET', '/assets/mail.css', () => answer(200, 'text/css', STYLE, { 'cache-control': FOREVER })],
  ['GET', '/openapi.json', () => answer(200, 'application/json', DOCUMENT)],
  ['GET', '/readyz', () => answer(200, 'text/plain', 'ready\n')],
  ['GET', '/livez', () => answer(200, 'text/plain', 'alive\n')],
].map(([method, path, serve]) => ({ method, path, serve, pattern: patternOf(path) }));

/** The methods of every path, as in the routes. */
export const PATHS = ROUTES.map(({ method, path }) => [method, path]);

/** A server over an office, not yet listening. */
export function serve(office) {
  const base = new URL(office.base);
  const site = { path: base.pathname.replace(/\/+$/, ''), version: VERSION };
  const state = { office, site, events: 0 };
  const limits = {
    maxHeaderSize: 16 * 1024, headersTimeout: 10_000, requestTimeout: 30_000, keepAliveTimeout: 120_000,
    connectionsCheckingInterval: 1000,
  };
  const server = createServer(limits, (request, response) => respond(state, request, response));
  server.maxConnections = CONNECTIONS_MAX;
  server.maxHeadersCount = 100;
  server.on('clientError', refuseClient);
  return server;
}

async function respond(state, request, response) {
  const began = performance.now();
  let route;
  let reply;
  try {
    const { path, query } = targetOf(request);
    const found = routeOf(request.method === 'HEAD' ? 'GET' : request.method, path);
    route = found.route;
    reply = await route.serve({ ...state, state, request, query, ...found.parameters });
  } catch (error) {
    reply = refusal(state.site, request, error);
  }
  if (request.socket.destroyed) return;
  response.writeHead(reply.status, { ...GUARDS, ...reply.headers });
  response.end(request.method === 'HEAD' ? undefined : reply.body);
  if (route?.path === '/readyz' || route?.path === '/livez') return;
  const trace = /^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/.exec(request.headers.traceparent ?? '');
  log.write('info', 'request', {
    method: request.method,
    path: route?.path ?? '-',
    status: reply.status,
    ...(trace && { trace_id: trace[1] }),
    duration_ms: Math.round((performance.now() - began) * 100) / 100,
  });
}

function refusal(site, request, error) {
  if (error instanceof Malformed) return refusal(site, request, new Problem(400, error.message));
  if (!(error instanceof Problem)) {
    log.write('error', 'a request failed', { error: log.chain(error) });
    return refusal(site, request, new Problem(503, 'the service cannot do this at the moment', { 'retry-after': '1' }));
  }
  const { status, message, headers } = error;
  if (wantsPage(request)) return answer(status, 'text/html; charset=utf-8', pages.notice(site, status, message), headers);
  const body = JSON.stringify({ title: STATUS_CODES[status], status, detail: message });
  return answer(status, 'application/problem+json', body, headers);
}

function answer(status, kind, body, headers = {}) {
  const own = { 'content-type': kind, 'content-length': Buffer.byteLength(body), vary: 'accept' };
  return { status, body, headers: { ...own, ...headers } };
}

function json(value, status = 200) {
  return answer(status, 'application/json', JSON.stringify(value));
}

function html(text) {
  return answer(200, 'text/html; charset=utf-8', text);
}

function nothing(status = 204, headers = {}) {
  return { status, headers };
}

/** Whether whoever asks reads pages: browsers name HTML, programs name JSON or nothing. */
function wantsPage(request) {
  return (request.headers.accept ?? '').toLowerCase().includes('text/html');
}

function patternOf(path) {
  const pattern = path.replace(/\./g, '\\.').replace(/\{(\w+)\}/g, '(?<$1>[^/]+)');
  return new RegExp(`^${pattern}$`);
}

function targetOf({ url }) {
  const [path, ...rest] = url.split('?');
  return { path, query: new URLSearchParams(rest.join('?')) };
}

function routeOf(method, path) {
  const allowed = [];
  for (const route of ROUTES) {
    const match = route.pattern.exec(path);
    if (match === null) continue;
    if (route.method === method) return { route, parameters: decoded(match.groups) };
    allowed.push(...(route.method === 'GET' ? ['GET', 'HEAD'] : [route.method]));
  }
  if (allowed.length === 0) throw new Problem(404, 'there is nothing at this path');
  throw new Problem(405, 'this path does not take this method', { allow: [...new Set(allowed)].join(', ') });
}

function decoded(groups = {}) {
  try {
    return Object.fromEntries(Object.entries(groups).map(([name, value]) => [name, decodeURIComponent(value)]));
  } catch {
    throw new Problem(404, 'there is nothing at this path');
  }
}

/** What is left of a body that is too large is read and dropped by the server, within its time for a request. */
async function bodyOf(request) {
  const tooLarge = () => new Problem(413, `the body has more than ${BODY_BYTES_MAX} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw tooLarge();
  const chunks = [];
  let size = 0;
  return new Promise((resolve, reject) => {
    request.on('data', (chunk) => {
      size += chunk.length;
      if (size > BODY_BYTES_MAX) {
        chunks.length = 0;
        reject(tooLarge());
      } else {
        chunks.push(chunk);
      }
    });
    request.on('end', () => resolve(Buffer.concat(chunks)));
    request.on('error', () => reject(new Problem(400, 'the body broke off')));
  });
}

async function objectOf(request) {
  let value;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await bodyOf(request)));
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(400, 'the body is not JSON');
  }
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject) throw new Problem(400, 'the body is not an object');
  return value;
}

function list({ office, site, request, query }) {
  const to = (query.get('to') ?? '').trim().slice(0, 254);
  const page = Math.min(Math.max(Math.trunc(Number(query.get('page') ?? 1)) || 1, 1), PAGE_MAX);
  const { total, mails } = office.box.list(to, (page - 1) * PAGE_SIZE, PAGE_SIZE);
  const items = mails.map(({ id, at, to, subject }) => ({ id, to, subject, date: new Date(at).toISOString() }));
  const pageCount = Math.max(1, Math.ceil(total / PAGE_SIZE));
  if (!wantsPage(request)) {
    const next = page < pageCount ? `?${new URLSearchParams({ ...(to && { to }), page: page + 1 })}` : null;
    return json({ items, total, next });
  }
  const view = { mails: items, total, to, page, pages: pageCount, joined: query.get('joined') !== null };
  return html(pages.list(site, view));
}

async function load(office, id) {
  const bytes = /^[0-9a-f]{32}$/.test(id) ? await office.box.read(id) : null;
  if (bytes === null) throw new Problem(404, 'there is no such mail');
  return bytes;
}

async function read({ office, site, request, id }) {
  const bytes = await load(office, id);
  const head = parseHead(bytes);
  const of = (name) => head.get(name) ?? '';
  const date = new Date(of('date'));
  const mail = {
    id,
    from: of('from'),
    to: of('to'),
    subject: of('subject'),
    date: (Number.isNaN(date.getTime()) ? new Date(0) : date).toISOString(),
    text: parseText(bytes),
  };
  return wantsPage(request) ? html(pages.mail(site, mail)) : json(mail);
}

async function readSource({ office, id }) {
  const bytes = await load(office, id);
  return answer(200, 'message/rfc822', bytes, { 'content-disposition': `attachment; filename="${id}.eml"` });
}

/** One event in binary mode: 204 once all that comes of it is on disk. What will never be right is 400. */
async function takeEvent({ office, state, request }) {
  if (state.events >= EVENTS_MAX) throw new Problem(503, 'too many events wait', { 'retry-after': '1' });
  const [source, id, type] = ['ce-source', 'ce-id', 'ce-type'].map((name) => attribute(request, name));
  const now = Date.now();
  const at = Date.parse(request.headers['ce-time'] ?? '');
  state.events += 1;
  try {
    const data = await objectOf(request);
    const mails = await office.handle({ source, id, type, data, at: at >= 0 ? Math.min(at, now) : now });
    if (mails > 0) log.write('info', 'mails written', { mails, type });
  } finally {
    state.events -= 1;
  }
  return nothing();
}

/** A CloudEvents attribute: percent-encoded UTF-8 (CloudEvents HTTP binding §3.1.3.2). */
function attribute(request, name) {
  const value = request.headers[name];
  if (!value) throw new Problem(400, `${name} is missing: this is no CloudEvent in binary mode`);
  try {
    return decodeURIComponent(value);
  } catch {
    throw new Problem(400, `${name} is not UTF-8`);
  }
}

function addressOf(email) {
  const address = parseAddress(email);
  if (address === null) throw new Problem(422, 'that is not an address of the form name@example.org');
  return address;
}

function showSubscriber({ office, email }) {
  const subscriber = office.subscribers.get(addressOf(email));
  if (subscriber === undefined) throw new Problem(404, 'that address is not on the list');
  return json({ offers: true, since: subscriber.since });
}

async function putSubscriber({ office, request, email }) {
  const address = addressOf(email);
  const { offers } = await objectOf(request);
  if (typeof offers !== 'boolean') throw new Problem(422, '`offers` must be true or false');
  if (offers) await join(office, address);
  else await office.subscribers.leave(address);
  return nothing();
}

async function deleteSubscriber({ office, email }) {
  await office.subscribers.leave(addressOf(email));
  return nothing();
}

async function joinByForm({ office, site, request }) {
  if (!isFromHere(request)) throw new Problem(403, 'the form was not sent from a page of this shop');
  const form = new URLSearchParams((await bodyOf(request)).toString('utf8'));
  await join(office, addressOf((form.get('email') ?? '').slice(0, TEXT_MAX)));
  return nothing(303, { location: `${site.path || '/'}?joined`, 'content-length': 0 });
}

async function join(office, address) {
  const now = new Date();
  const outcome = await office.subscribers.join(address, now);
  if (outcome === 'full') throw new Problem(409, 'the list is full');
  if (outcome === 'joined') await office.welcome(address, now);
}

function askUnsubscribe({ office, site, token }) {
  return html(pages.unsubscribe(site, { token, email: office.subscribers.emailOf(token) }));
}

/** Whoever has the link may, from wherever they come: programs that read mail send this by themselves (RFC 8058). */
async function unsubscribe({ office, site, token }) {
  const email = office.subscribers.emailOf(token);
  if (email !== undefined) await office.subscribers.leave(email);
  return html(pages.unsubscribe(site, { token }));
}

/** Whether a form may change something. Browsers say from which site it comes; what says nothing is no browser. */
function isFromHere({ headers }) {
  const site = headers['sec-fetch-site'];
  if (site !== undefined) return site === 'same-origin' || site === 'none';
  if (headers.origin === undefined) return true;
  const authority = headers.origin.split('://')[1] ?? '';
  return [headers['x-forwarded-host'], headers.host].includes(authority);
}

/** What is no HTTP. The parser of Node.js has decided; only the words are ours. */
function refuseClient(error, socket) {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code] ?? 400;
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
}
