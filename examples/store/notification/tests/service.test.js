// The service as a process, over HTTP: events in, mails to read, offers asked for and ended, hostile input, and how it ends.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import test from 'node:test';

import { BODY_BYTES_MAX, PATHS } from '../src/server.js';
import { FOLDER, Service, product } from './service.js';

const ANN = '/subscribers/ann@example.org';
const FORM = { 'content-type': 'application/x-www-form-urlencoded' };

async function subscribe(service, email, offers = true) {
  const { status, body } = await service.request('PUT', `/subscribers/${encodeURIComponent(email)}`, { body: JSON.stringify({ offers }) });
  assert.equal(status, 204, body);
}

async function told(service, type, id, data, headers) {
  const { status, body } = await service.event(type, id, data, headers);
  assert.equal(status, 204, body);
}

test('who asked for offers hears of a lower price, once, and can end it', async (t) => {
  const service = await Service.start(t);
  await subscribe(service, 'Ann@Example.org');
  await subscribe(service, 'bob@example.org');
  assert.equal((await service.mails()).total, 2, 'both were greeted');
  await told(service, 'catalog.product.created', '1', product(1, 4990));
  await told(service, 'catalog.product.changed', '2', product(2, 5990));
  await told(service, 'catalog.product.changed', '3', product(3, 2990, { name: 'Café\r\nBcc: x@y.org <b>' }), { 'ce-time': '2026-11-21T10:00:00.5Z' });
  await told(service, 'catalog.product.changed', '3', product(3, 2990));
  await told(service, 'catalog.product.changed', '2', product(2, 990));
  await told(service, 'catalog.product.changed', '4', product(4, 1990, { currency: 'USD' }));

  const { total, items } = await service.mails('?to=ANN');
  assert.equal(total, 2);
  const listed = items.find((item) => item.subject.startsWith('€29.90'));
  assert.equal(listed.subject, '€29.90 instead of €59.90: Café Bcc: x@y.org <b>');
  assert.equal(listed.to, 'ann@example.org');
  assert.equal(listed.date, '2026-11-21T10:00:00.500Z');
  const mail = JSON.parse((await service.request('GET', `/mails/${listed.id}`)).body);
  assert.match(mail.text, /is now €29\.90 instead of €59\.90, 50 % less/);
  assert.match(mail.text, /http:\/\/shop\.example\/product\/alma-lamp\n/);
  assert.deepEqual([mail.from, mail.date], ['"Lagoon" <shop@lagoon.example>', '2026-11-21T10:00:00.000Z']);

  const source = await service.request('GET', `/mails/${listed.id}.eml`);
  assert.equal(source.headers['content-type'], 'message/rfc822');
  assert.doesNotMatch(source.body, /^Bcc/m);
  const [, link] = /^List-Unsubscribe: <http:\/\/shop\.example\/mail(\/unsubscribe\/[0-9a-f]{32})>\r$/m.exec(source.body.replace(/:\r\n /, ': '));
  const asked = await service.page(link);
  assert.ok(asked.body.includes('ann@example.org') && asked.body.includes(`action="/mail${link}"`));
  assert.equal((await service.request('GET', ANN)).status, 200, 'looking ends nothing');
  for (let times = 0; times < 2; times += 1) {
    const ended = await service.request('POST', link, { body: 'List-Unsubscribe=One-Click', headers: FORM });
    assert.equal(ended.status, 200);
  }
  assert.equal((await service.request('GET', ANN)).status, 404);
  await told(service, 'catalog.product.changed', '5', product(5, 100, { currency: 'USD' }));
  assert.equal((await service.mails('?to=ann')).total, 2);
  assert.equal((await service.mails('?to=bob')).total, 3);
});

test('orders are confirmed, and what is no concern of mails is passed over', async (t) => {
  const service = await Service.start(t);
  const order = { order: 'L-1', email: 'ann@example.org', name: 'Ann', currency: 'EUR', total: 3980, lines: [{ name: 'Alma lamp', quantity: 2, price: 1990 }] };
  await told(service, 'orders.placed', '1', order);
  await told(service, 'orders.placed', '1', order);
  await told(service, 'orders.shipped', '2', { order: 'L-1', email: 'ann@example.org', tracking: 'T 1' });
  await told(service, 'catalog.product.imaged', '3', {});
  await told(service, 'catalog.product.removed', '4', { id: 'p1' });
  const { items } = await service.mails();
  assert.deepEqual(items.map((item) => item.subject).sort(), ['Your order L-1', 'Your order L-1 is on its way']);
  const placed = items.find((item) => item.subject === 'Your order L-1');
  assert.match(JSON.parse((await service.request('GET', `/mails/${placed.id}`)).body).text, /2 × Alma lamp: €39\.80\n\nTogether: €39\.80/);
});

test('what will never be right is refused for good', async (t) => {
  const service = await Service.start(t);
  const bad = [
    '', '{', '[]', '"x"', 'null', '['.repeat(100_000), Buffer.from([0xff]), '{"id":"\\ud800"}', product(1, -1), product(1.5, 1), product(1, 1, { name: 5 }),
    product(1, 1, { id: '' }), product(1, 1, { name: 'x'.repeat(301) }), product(1, 2 ** 60), {},
  ];
  for (const data of bad) {
    const { status, headers } = await service.event('catalog.product.changed', 'x', data);
    assert.deepEqual([status, headers['content-type']], [400, 'application/problem+json'], JSON.stringify(data));
  }
  for (const data of [{}, { order: '1', email: 'x', lines: [] }, { order: '1', email: 'a@b.org\r\nBcc: x@y.org', lines: [], total: 1, currency: 'EUR' },
    { order: '1', email: 'a@b.org', lines: [1], total: 1, currency: 'EUR' }, { order: '1', email: 'a@b.org', lines: Array(101).fill({}), total: 1, currency: 'EUR' }]) {
    assert.equal((await service.event('orders.placed', 'x', data)).status, 400, JSON.stringify(data));
  }
  assert.equal((await service.request('POST', '/events', { body: '{}' })).status, 400);
  assert.equal((await service.event('%ff', 'x', {})).status, 400);
  assert.equal((await service.mails()).total, 0);
});

test('pages show what is in a mail and run none of it', async (t) => {
  const service = await Service.start(t);
  const evil = `<script>alert(1)</script>" onload='x' {{ & https://evil.example/<img>`;
  const order = { order: evil, email: "o'neil@example.org", name: evil, currency: 'EUR', total: 1, lines: [] };
  await told(service, 'orders.placed', '1', order);
  const { items } = await service.mails();
  for (const target of ['/', '/?to=%3Cscript%3E%22', `/mails/${items[0].id}`, '/nowhere', '/unsubscribe/%3Cscript%3E', '/?joined']) {
    const { body, headers } = await service.page(target);
    assert.match(headers['content-type'], /^text\/html/);
    assert.match(headers['content-security-policy'], /^default-src 'none'/);
    assert.doesNotMatch(body, /<script|<img| onload='/i, target);
    assert.match(body, /<html lang="en">[^]*<\/html>\n$/);
    assert.doesNotMatch(body, /\[object|undefined/);
  }
  assert.match((await service.page(`/mails/${items[0].id}`)).body, /<a href="https:\/\/evil\.example\/">/);
});

test('many mails are shown page by page', async (t) => {
  const service = await Service.start(t);
  const order = (number) => ({ order: String(number), email: `a${number % 2}@example.org`, currency: 'EUR', total: 1, lines: [] });
  await Promise.all(Array.from({ length: 60 }, (_, number) => told(service, 'orders.placed', String(number), order(number))));
  const seen = new Set();
  for (let target = ''; target !== null; ) {
    const { items, total, next } = await service.mails(target);
    assert.equal(total, 60);
    items.forEach((item) => seen.add(item.id));
    target = next;
  }
  assert.equal(seen.size, 60);
  assert.match((await service.page('/?to=a1&page=2')).body, /href="\/mail\?to=a1&amp;page=1" rel="prev"[^]*Page 2 of 2/);
  for (const page of ['0', '-1', 'x', '1e9', '999999999999999999999', '1.7', '']) {
    assert.equal((await service.request('GET', `/?page=${page}`)).status, 200, page);
  }
});

test('the list is joined by a form of ours, and not by one of another site', async (t) => {
  const service = await Service.start(t);
  const join = (email, headers = {}) => service.request('POST', '/subscribers', { body: new URLSearchParams({ email }).toString(), headers: { ...FORM, ...headers } });
  assert.equal((await join('eve@example.org', { 'sec-fetch-site': 'cross-site' })).status, 403);
  assert.equal((await join('eve@example.org', { origin: 'http://evil.example' })).status, 403);
  assert.equal((await join('eve@example.org', { origin: 'http://shop.example', 'x-forwarded-host': 'shop.example' })).status, 303);
  const joined = await join('ann@example.org', { 'sec-fetch-site': 'same-origin' });
  assert.deepEqual([joined.status, joined.headers.location], [303, '/mail?joined']);
  for (const wrong of ['', 'ann', 'ann@example.org\r\nBcc: x@y.org']) assert.equal((await join(wrong)).status, 422, wrong);
  const request = (method, body) => service.request(method, ANN, { body });
  assert.deepEqual(JSON.parse((await request('GET')).body).offers, true);
  for (const [body, status] of [['{"offers":1}', 422], ['{}', 422], ['x', 400], ['{"offers":false}', 204], ['{"offers":false}', 204]]) {
    assert.equal((await request('PUT', body)).status, status, body);
  }
  assert.equal((await request('GET')).status, 404);
  assert.equal((await request('DELETE')).status, 204);
  assert.equal((await service.request('GET', '/subscribers/x')).status, 422);
  assert.equal((await service.request('GET', '/subscribers/%ff')).status, 404);
});

test('paths and methods are as described', async (t) => {
  const service = await Service.start(t);
  const { paths } = JSON.parse(readFileSync(path.join(FOLDER, 'openapi.json'), 'utf8'));
  const described = Object.entries(paths).flatMap(([at, methods]) => Object.keys(methods).filter((name) => name !== 'parameters').map((name) => `${name.toUpperCase()} ${at}`));
  assert.deepEqual(described.sort(), PATHS.map((pair) => pair.join(' ')).sort());
  for (const target of ['/readyz', '/livez', '/openapi.json', '/assets/mail.css']) {
    assert.equal((await service.request('GET', target)).status, 200, target);
    assert.equal((await service.request('HEAD', target)).body, '', target);
  }
  for (const target of ['/mails', '/mails/../journal.jsonl', '/mails/%2e%2e%2fjournal.jsonl', '/mails/x', `/mails/${'0'.repeat(32)}.eml`, '//', '/.', '/assets/']) {
    assert.equal((await service.request('GET', target)).status, 404, target);
  }
  const refused = await service.request('DELETE', ANN.replace(/\/ann.*/, ''));
  assert.deepEqual([refused.status, refused.headers.allow], [405, 'POST']);
});

test('what is too large or no HTTP is refused, and hurts nobody', async (t) => {
  const service = await Service.start(t);
  const { status } = await service.event('orders.placed', '1', ' '.repeat(BODY_BYTES_MAX + 1));
  assert.equal(status, 413);
  const head = 'POST /events HTTP/1.1\r\nhost: x\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\n';
  const chunked = `${head}transfer-encoding: chunked\r\n\r\n${'8000\r\n'}${'x'.repeat(0x8000)}\r\n`;
  assert.match(await service.raw(chunked.replace('8000\r\n', `50000\r\n${' '.repeat(0x48000)}`)), /^HTTP\/1\.1 413 /);
  for (const [sent, expected] of [
    ['\x16\x03\x01\r\n\r\n', 400], [`GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`, 431],
    [`${head}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`, 400], [`${head}content-length: x\r\n\r\n`, 400],
    ['GET / HTTP/1.1\r\nhost: x\r\nx: \0\r\n\r\n', 400],
  ]) {
    assert.match(await service.raw(sent), new RegExp(`^HTTP/1\\.1 ${expected} `), JSON.stringify(sent.slice(0, 80)));
  }
  const event = `${head}content-length: 10\r\n\r\n{}`;
  await Promise.all(Array.from({ length: event.length - 1 }, (_, end) => service.raw(event.slice(0, end + 1))));
  assert.equal((await service.request('GET', '/livez')).status, 200);
});

test('kills at any moment lose nothing that was acknowledged and make no mail twice', async (t) => {
  const service = await Service.start(t);
  await subscribe(service, 'ann@example.org');
  await subscribe(service, 'bob@example.org');
  await told(service, 'catalog.product.created', '1', product(1, 100_000));
  for (let round = 2; round < 12; round += 1) {
    const change = () => service.event('catalog.product.changed', String(round), product(round, 100_000 - round));
    const first = change().catch(() => null);
    // Each round a little later: before, within, and behind what is done.
    await new Promise((resolve) => setTimeout(resolve, round - 2));
    await service.end('SIGKILL');
    const acknowledged = (await first)?.status === 204;
    await service.begin();
    if (acknowledged) assert.equal((await service.mails()).total, 2 + 2 * (round - 1));
    assert.equal((await change()).status, 204);
    const { total } = await service.mails();
    assert.equal(total, 2 + 2 * (round - 1), `round ${round}`);
  }
  const names = await readdir(path.join(service.folder, '50% of it.box', 'mails'));
  assert.equal(names.length, 22);
  assert.ok(names.every((name) => name.endsWith('.eml')));
});

test('a stop finishes what has begun and closes what idles', async (t) => {
  const service = await Service.start(t);
  const idle = connect(service.port, '127.0.0.1');
  const gone = new Promise((resolve) => idle.on('close', resolve));
  await new Promise((resolve) => idle.once('connect', resolve));
  idle.write('GET /livez HTTP/1.1\r\nhost: x\r\n\r\n');
  await new Promise((resolve) => idle.once('data', resolve));
  const begun = connect(service.port, '127.0.0.1');
  let answer = '';
  const answered = new Promise((resolve) => begun.on('close', resolve));
  begun.write('POST /events HTTP/1.1\r\nhost: x\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n');
  await new Promise((resolve) => begun.once('data', resolve));
  begun.on('data', (chunk) => (answer += chunk));
  service.process.kill('SIGTERM');
  await gone;
  begun.write('{}');
  await answered;
  assert.match(answer, /^HTTP\/1\.1 204 /);
  assert.equal((await service.ended)[0], 0);
  assert.ok(service.lines.some((line) => line.message === 'stopped'));
});

test('its log has the trace, and no address of a person', async (t) => {
  const service = await Service.start(t);
  await subscribe(service, 'ann@example.org');
  const trace = '0af7651916cd43dd8448eb211c80319c';
  await service.request('GET', `${ANN}?to=ann`, { headers: { traceparent: `00-${trace}-b7ad6b7169203331-01` } });
  await service.end();
  assert.ok(service.lines.some((line) => line.trace_id === trace && line.path === '/subscribers/{email}'));
  assert.doesNotMatch(JSON.stringify(service.lines), /ann/);
});

test('a wrong environment is named', () => {
  const good = { PATH: process.env.PATH, HOST: '127.0.0.1', PORT: '0', DATABASE_URL: 'sqlite:///dev/null/x.db' };
  for (const [change, expected] of [
    [{ HOST: undefined }, /HOST is not set/], [{ HOST: 'localhost' }, /HOST is 'localhost'/], [{ PORT: '70000' }, /PORT is '70000'/],
    [{ DATABASE_URL: 'postgres://x' }, /DATABASE_URL is 'postgres/], [{ PUBLIC_URL: 'ftp://x' }, /PUBLIC_URL is 'ftp/], [{}, /ENOTDIR|not a directory/],
  ]) {
    const ended = spawnSync(process.execPath, ['src/main.js'], { cwd: FOLDER, env: { ...good, ...change }, encoding: 'utf8' });
    assert.equal(ended.status, 1);
    assert.match(JSON.parse(ended.stdout).error, expected);
  }
});
