// The box: one file a mail, named by when it was written and what it is about, so that the same mail is in it once
// however often its event comes. It holds the newest; the oldest go.

import { mkdir, open, readFile, readdir, unlink } from 'node:fs/promises';
import path from 'node:path';

import { UNFINISHED, place } from './files.js';
import * as log from './log.js';
import { parseHead } from './mail.js';

export const MAILS_MAX = 10_000;
/** Of a mail, so much is read for the list. */
const HEAD_BYTES = 8192;
const NAME = /^(\d{15})-([0-9a-f]{32})\.eml$/;
/** Files that are read at a time when the box is opened. */
const READERS = 16;

export class Box {
  #folder;
  #max;
  /** In the order of time. */
  #mails = [];
  #byId = new Map();
  #writing = new Map();

  constructor(folder, max = MAILS_MAX) {
    this.#folder = folder;
    this.#max = max;
  }

  async open() {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const names = (await readdir(this.#folder)).sort();
    for (const name of names.filter((name) => name.endsWith(UNFINISHED))) await unlink(path.join(this.#folder, name));
    const found = names.map((name) => NAME.exec(name)).filter(Boolean);
    for (let from = 0; from < found.length; from += READERS) {
      const loaded = await Promise.all(found.slice(from, from + READERS).map((match) => this.#load(match)));
      for (const mail of loaded.filter(Boolean)) this.#insert(mail);
    }
    await this.#drop();
  }

  /** Puts a mail in, `bytes` as they are. False when it is there already, or older than all of a full box. */
  async put(id, at, bytes) {
    if (this.#byId.has(id)) return false;
    // Two attempts at one event may overlap.
    if (this.#writing.has(id)) return this.#writing.get(id);
    const work = this.#write(entry(id, at, bytes), bytes);
    this.#writing.set(id, work);
    try {
      return await work;
    } finally {
      this.#writing.delete(id);
    }
  }

  /** Mails whose recipient contains a text, the newest first. */
  list(to, offset, limit) {
    const wanted = to.toLowerCase();
    const fits = wanted ? this.#mails.filter((mail) => mail.to.toLowerCase().includes(wanted)) : this.#mails;
    const end = Math.max(0, fits.length - offset);
    return { total: fits.length, mails: fits.slice(Math.max(0, end - limit), end).reverse() };
  }

  /** The bytes of a mail, or null. */
  async read(id) {
    const mail = this.#byId.get(id);
    if (mail === undefined) return null;
    try {
      return await readFile(this.#path(mail));
    } catch (error) {
      if (error.code === 'ENOENT') return null;
      throw error;
    }
  }

  async #write(mail, bytes) {
    if (this.#mails.length >= this.#max && mail.at < this.#mails[0].at) return false;
    await place(this.#path(mail), bytes);
    this.#insert(mail);
    await this.#drop();
    return true;
  }

  #path({ id, at }) {
    return path.join(this.#folder, `${String(at).padStart(15, '0')}-${id}.eml`);
  }

  async #load([name, at, id]) {
    try {
      const handle = await open(path.join(this.#folder, name), 'r');
      try {
        const { bytesRead, buffer } = await handle.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
        return entry(id, Number(at), buffer.subarray(0, bytesRead));
      } finally {
        await handle.close();
      }
    } catch (error) {
      log.write('error', 'a mail cannot be read', { name, error: error.message });
      return null;
    }
  }

  #insert(mail) {
    if (this.#byId.has(mail.id)) return;
    let place = this.#mails.length;
    while (place > 0 && this.#mails[place - 1].at > mail.at) place -= 1;
    this.#mails.splice(place, 0, mail);
    this.#byId.set(mail.id, mail);
  }

  async #drop() {
    while (this.#mails.length > this.#max) {
      const mail = this.#mails.shift();
      this.#byId.delete(mail.id);
      await unlink(this.#path(mail)).catch((error) => {
        log.write('error', 'an old mail cannot be removed', { id: mail.id, error: error.message });
      });
    }
  }
}

/** What the list shows of a mail, which is what its head says. */
function entry(id, at, bytes) {
  const head = parseHead(bytes);
  return { id, at, to: head.get('to') ?? '', subject: head.get('subject') ?? '' };
}
