// A small map on disk: every change is a line of JSON that is synced before it counts, many lines at a time. After a
// crash the torn end is left out. Now and then, and at every start, the file is written anew without what was
// overwritten since.

import { open, readFile } from 'node:fs/promises';

import { place } from './files.js';
import * as log from './log.js';

/** Lines beyond twice the entries after which the file is written anew. */
const SLACK = 4096;

export class Journal {
  #file;
  #handle = null;
  #map = new Map();
  #lines = 0;
  #waiting = [];
  #run = null;

  constructor(file) {
    this.#file = file;
  }

  /** Reads what is there and writes it anew. */
  async open() {
    const text = await readFile(this.#file, 'utf8').catch((error) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
    const lines = text.split('\n');
    // What follows the last line break was being written when the process ended; it was acknowledged to nobody.
    lines.pop();
    for (const line of lines) {
      try {
        const [key, value] = JSON.parse(line);
        apply(this.#map, String(key), value);
      } catch {
        log.write('error', 'a line of the journal is damaged and left out', { length: line.length });
      }
    }
    await this.#rewrite();
  }

  get(key) {
    return this.#map.get(key);
  }

  /** Every entry whose key begins so, the one that was written longest ago first. */
  *entries(prefix) {
    for (const [key, value] of this.#map) {
      if (key.startsWith(prefix)) yield [key.slice(prefix.length), value];
    }
  }

  /** Sets entries, all or none; `undefined` removes one. Returns when they are on disk; then they can be read. */
  put(changes) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject });
      this.#run ??= this.#write();
    });
  }

  async close() {
    await this.#run;
    await this.#handle?.close();
  }

  async #write() {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        const changes = batch.flatMap((entry) => entry.changes);
        await this.#append(changes);
        batch.forEach((entry) => entry.resolve());
      } catch (error) {
        batch.forEach((entry) => entry.reject(new Error('the journal cannot be written', { cause: error })));
      }
    }
    this.#run = null;
  }

  async #append(changes) {
    // After a failure nobody knows what is in the file. It is made anew from what was acknowledged.
    if (this.#handle === null || this.#lines > SLACK + 2 * this.#map.size) await this.#rewrite();
    const lines = changes.map(([key, value]) => line(key, value));
    try {
      await this.#handle.appendFile(lines.join(''));
      await this.#handle.datasync();
    } catch (error) {
      await this.#handle.close().catch(() => {});
      this.#handle = null;
      throw error;
    }
    this.#lines += lines.length;
    for (const [key, value] of changes) apply(this.#map, key, value);
  }

  async #rewrite() {
    await this.#handle?.close();
    this.#handle = null;
    await place(this.#file, [...this.#map].map(([key, value]) => line(key, value)).join(''));
    this.#handle = await open(this.#file, 'a', 0o600);
    this.#lines = this.#map.size;
  }
}

function line(key, value) {
  return `${JSON.stringify([key, value ?? null])}\n`;
}

function apply(map, key, value) {
  map.delete(key);
  if (value !== null && value !== undefined) map.set(key, value);
}
