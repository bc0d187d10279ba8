// Begins and ends the service `notification`: reads the environment, serves until SIGTERM, finishes what has begun.

import { mkdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import path from 'node:path';

import { Box } from './box.js';
import { Office } from './events.js';
import { Journal } from './journal.js';
import * as log from './log.js';
import { serve } from './server.js';
import { Subscribers } from './subscribers.js';

/** Shorter than the platform's grace, so that a stop that cannot be clean is at least told of. */
const STOP_MAX = 9000;
/** How long new connections are still taken after the signal: who sends requests may learn of it a moment later. */
const LINGER = 100;

/** A variable of the environment, which an error names. */
function variable(name, expected, parse) {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: it must be ${expected}`);
  const parsed = parse(value);
  if (parsed === null) throw new Error(`${name} is '${value}': it must be ${expected}`);
  return parsed;
}

function parsePort(value) {
  return /^\d{1,5}$/.test(value) && Number(value) < 65536 ? Number(value) : null;
}

function parseAddress(value) {
  try {
    const { protocol, origin, pathname } = new URL(value);
    const base = origin + pathname.replace(/\/+$/, '');
    return ['http:', 'https:'].includes(protocol) ? { shop: origin, base } : null;
  } catch {
    return null;
  }
}

/** The folder for mails and state: `BOX`, or one beside the database that the platform gives. */
function folder() {
  if (process.env.BOX) return path.resolve(process.env.BOX);
  return variable('DATABASE_URL', 'an address such as sqlite:///absolute/path.db, or BOX a folder', (value) => {
    if (!value.startsWith('sqlite:///')) return null;
    try {
      const file = path.parse(decodeURIComponent(value.slice('sqlite://'.length)));
      return path.join(file.dir, `${file.name}.box`);
    } catch {
      return null;
    }
  });
}

async function main() {
  const host = variable('HOST', 'an IP address', (value) => (isIP(value) ? value : null));
  const port = variable('PORT', 'a port number', parsePort);
  const here = folder();
  const expected = 'an address such as http://shop.example/mail';
  const told = process.env.PUBLIC_URL ? variable('PUBLIC_URL', expected, parseAddress) : null;

  await mkdir(here, { recursive: true, mode: 0o700 });
  const journal = new Journal(path.join(here, 'journal.jsonl'));
  const box = new Box(path.join(here, 'mails'));
  await Promise.all([journal.open(), box.open()]);
  const subscribers = new Subscribers(journal);
  const own = `http://${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
  const office = new Office({ box, journal, subscribers, ...(told ?? { base: own, shop: own }) });

  const server = serve(office);
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, host, resolve));
  log.write('info', 'listening', { address: `${host}:${server.address().port}` });
  await new Promise((resolve) => ['SIGTERM', 'SIGINT'].forEach((signal) => process.once(signal, resolve)));
  await drain(server);
  await journal.close();
  log.write('info', 'stopped');
}

async function drain(server) {
  await new Promise((resolve) => setTimeout(resolve, LINGER));
  const closed = new Promise((resolve) => server.close(resolve));
  // A connection whose last request was being served idles a moment later.
  const sweep = setInterval(() => server.closeIdleConnections(), 50);
  server.closeIdleConnections();
  const late = setTimeout(() => {
    log.write('error', 'stopped before every request had finished');
    server.closeAllConnections();
  }, STOP_MAX);
  await closed;
  clearInterval(sweep);
  clearTimeout(late);
}

main().catch((error) => {
  log.write('error', 'cannot start', { error: log.chain(error) });
  process.exitCode = 1;
});
