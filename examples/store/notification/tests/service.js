// The service as a process of its own, with a folder of its own, for the tests.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { request as send } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const FOLDER = fileURLToPath(new URL('..', import.meta.url));

/** A new folder that is removed when the test ends. */
export async function folder(test) {
  const made = await mkdtemp(path.join(tmpdir(), 'notification-'));
  test.after(() => rm(made, { recursive: true, force: true }));
  return made;
}

export class Service {
  lines = [];
  #waiting = [];

  /** A service that is stopped when the test ends. */
  static async start(test, environment = {}) {
    const service = new Service();
    service.folder = await folder(test);
    service.environment = environment;
    test.after(() => service.process.kill('SIGKILL'));
    await service.begin();
    return service;
  }

  /** Starts, or starts again on what it left. */
  async begin() {
    this.lines = [];
    const given = {
      PATH: process.env.PATH, HOST: '127.0.0.1', PORT: '0', PUBLIC_URL: 'http://shop.example/mail',
      // The name has characters that an URL escapes.
      DATABASE_URL: `sqlite://${this.folder}/50%25%20of%20it.db`,
    };
    this.process = spawn(process.execPath, ['src/main.js'], {
      cwd: FOLDER, env: { ...given, ...this.environment }, stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.ended = once(this.process, 'exit');
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      this.lines.push(JSON.parse(line));
      this.#waiting.forEach((look) => look());
    });
    this.port = Number((await this.line('listening')).address.split(':')[1]);
  }

  /** The first line of the log with this message, now or later. */
  line(message) {
    return new Promise((resolve) => {
      const look = () => {
        const found = this.lines.find((line) => line.message === message);
        if (found) resolve(found);
      };
      this.#waiting.push(look);
      look();
    });
  }

  async end(signal = 'SIGTERM') {
    this.process.kill(signal);
    const [code] = await this.ended;
    return code;
  }

  /** One request on a connection of its own: `{ status, headers, body }`. */
  request(method, target, { body, headers = {} } = {}) {
    return new Promise((resolve, reject) => {
      const asked = send({ host: '127.0.0.1', port: this.port, method, path: target, headers, agent: false }, async (answer) => {
        const chunks = [];
        for await (const chunk of answer) chunks.push(chunk);
        resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(chunks).toString('utf8') });
      });
      asked.on('error', reject);
      asked.end(body);
    });
  }

  event(type, id, data, headers = {}) {
    const attributes = { 'ce-specversion': '1.0', 'ce-source': '/services/test', 'ce-id': id, 'ce-type': type };
    const body = typeof data === 'string' || Buffer.isBuffer(data) ? data : JSON.stringify(data);
    return this.request('POST', '/events', { body, headers: { ...attributes, 'content-type': 'application/json', ...headers } });
  }

  async mails(query = '') {
    return JSON.parse((await this.request('GET', `/${query}`)).body);
  }

  page(target) {
    return this.request('GET', target, { headers: { accept: 'text/html' } });
  }

  /** What comes for bytes that no client would send. */
  raw(sent) {
    return new Promise((resolve, reject) => {
      const socket = connect(this.port, '127.0.0.1', () => socket.end(sent));
      const chunks = [];
      socket.on('data', (chunk) => chunks.push(chunk)).on('error', reject);
      socket.on('close', () => resolve(Buffer.concat(chunks).toString('latin1')));
    });
  }
}

/** A product as the catalog tells of it. */
export function product(version, price, more = {}) {
  return { id: 'p1', slug: 'alma-lamp', version, name: 'Alma lamp', price, currency: 'EUR', category: 'lamps', ...more };
}
