// What is done for each type of event. Everything here may be done twice: a mail is named by its event and its
// recipient, and what has been learnt of a product says up to which version.

import { createHash } from 'node:crypto';

import { compose, parseAddress } from './mail.js';
import * as templates from './templates.js';

const SENDER = { from: 'shop@lagoon.example', name: 'Lagoon' };
const DOMAIN = 'lagoon.example';
const PRODUCT = 'product/';

/** Products whose prices are known. Beyond it the one that was told of longest ago is forgotten: its next is a first. */
export const PRODUCTS_MAX = 50_000;
const TEXT_MAX = 300;
const LINES_MAX = 100;
/** Mails that are written at a time. */
const WRITERS = 8;

/** An event that will never be right: it is not worth another try. */
export class Malformed extends Error {}

/** Type of event → what is done. A type that is not here is no concern of ours. */
const HANDLERS = new Map([
  ['catalog.product.created', productTold],
  ['catalog.product.changed', productTold],
  ['catalog.product.removed', productRemoved],
  ['orders.placed', orderPlaced],
  ['orders.shipped', orderShipped],
]);

/** Where mails come from. `base` is the address of the box, `shop` that of the shop. */
export class Office {
  constructor({ box, journal, subscribers, base, shop }) {
    Object.assign(this, { box, journal, subscribers, base, shop, products: 0 });
    for (const _ of journal.entries(PRODUCT)) this.products += 1;
  }

  /** Does what an event asks for. Returns when it is on disk; how many mails came of it. Throws `Malformed`. */
  async handle(event) {
    const handler = HANDLERS.get(event.type);
    return handler === undefined ? 0 : handler(this, event);
  }

  /** Greets somebody who has just joined the list. */
  async welcome(email, now) {
    const { token } = this.subscribers.get(email) ?? {};
    if (token === undefined) return;
    const unsubscribe = this.unsubscribe(token);
    const mail = templates.welcome({ shop: this.shop, unsubscribe });
    await this.send({ source: 'welcome', id: token, at: now.getTime() }, email, mail, unsubscribe);
  }

  unsubscribe(token) {
    return `${this.base}/unsubscribe/${token}`;
  }

  /** Puts a mail into the box. */
  async send({ source, id, at }, to, { subject, text }, unsubscribe) {
    const name = hash(`${source.length}:${source} ${id.length}:${id} ${to}`);
    const headers = unsubscribe ? [['List-Unsubscribe', `<${unsubscribe}>`]] : [];
    // One click is for addresses that cannot be listened to (RFC 8058 §3.1).
    if (unsubscribe?.startsWith('https:')) headers.push(['List-Unsubscribe-Post', 'List-Unsubscribe=One-Click']);
    const date = new Date(at);
    const bytes = compose({ ...SENDER, to, subject, date, messageId: `${name}@${DOMAIN}`, headers, text });
    return this.box.put(name, at, bytes);
  }
}

/** A product was made or changed. Where its price fell, those who asked for offers learn of it. */
async function productTold(office, event) {
  const { data } = event;
  const product = {
    id: text(data, 'id'),
    version: whole(data, 'version'),
    name: line(data, 'name'),
    price: whole(data, 'price'),
    currency: line(data, 'currency'),
  };
  const slug = data.slug === undefined ? product.id : text(data, 'slug');
  const known = office.journal.get(PRODUCT + product.id);
  if (known && known.version >= product.version) return 0;
  let sent = 0;
  if (known && known.currency === product.currency && product.price < known.price) {
    const page = `${office.shop}/product/${encodeURIComponent(slug)}`;
    sent = await tellOffer(office, event, product, known.price, page);
  }
  // Mails first: after a crash between the two the event comes again, and finds those that were written.
  await learn(office, product);
  return sent;
}

async function tellOffer(office, event, product, former, page) {
  const everybody = office.subscribers.all();
  let sent = 0;
  for (let from = 0; from < everybody.length; from += WRITERS) {
    const written = everybody.slice(from, from + WRITERS).map(({ email, token }) => {
      const unsubscribe = office.unsubscribe(token);
      return office.send(event, email, templates.offer({ product, former, page, unsubscribe }), unsubscribe);
    });
    sent += (await Promise.all(written)).filter(Boolean).length;
  }
  return sent;
}

async function learn(office, { id, version, price, currency }) {
  const changes = [[PRODUCT + id, { version, price, currency }]];
  const known = office.journal.get(PRODUCT + id);
  // An attempt that was given up on may end behind the next event.
  if (known && known.version >= version) return;
  const isNew = known === undefined;
  if (isNew && office.products >= PRODUCTS_MAX) {
    const [oldest] = office.journal.entries(PRODUCT).next().value;
    changes.push([PRODUCT + oldest, undefined]);
  } else if (isNew) {
    office.products += 1;
  }
  await office.journal.put(changes);
}

async function productRemoved(office, { data }) {
  const id = text(data, 'id');
  if (office.journal.get(PRODUCT + id) === undefined) return 0;
  office.products -= 1;
  await office.journal.put([[PRODUCT + id, undefined]]);
  return 0;
}

async function orderPlaced(office, event) {
  const { data } = event;
  if (!Array.isArray(data.lines) || data.lines.length > LINES_MAX) {
    throw new Malformed(`\`lines\` must be a list of at most ${LINES_MAX}`);
  }
  const lines = data.lines.map((each) => {
    if (typeof each !== 'object' || each === null) throw new Malformed('a line must be an object');
    return { name: line(each, 'name'), quantity: whole(each, 'quantity'), price: whole(each, 'price') };
  });
  const order = { ...recipient(data), lines, total: whole(data, 'total'), currency: line(data, 'currency') };
  return Number(await office.send(event, order.email, templates.orderPlaced(order)));
}

async function orderShipped(office, event) {
  const { data } = event;
  const order = { ...recipient(data), carrier: optional(data, 'carrier'), tracking: optional(data, 'tracking') };
  return Number(await office.send(event, order.email, templates.orderShipped(order)));
}

function recipient(data) {
  const email = parseAddress(text(data, 'email'));
  if (email === null) throw new Malformed('`email` is no address');
  return { order: line(data, 'order'), email, name: optional(data, 'name') };
}

function optional(data, name) {
  return data[name] === undefined || data[name] === null ? undefined : line(data, name);
}

/** Text that is put into a sentence. */
function line(data, name) {
  return text(data, name).replace(/[\x00-\x1f\x7f]+/g, ' ');
}

function text(data, name) {
  const value = data[name];
  if (typeof value !== 'string' || value.length === 0 || value.length > TEXT_MAX || /\p{Surrogate}/u.test(value)) {
    throw new Malformed(`\`${name}\` must be a text of 1 to ${TEXT_MAX} characters`);
  }
  return value;
}

function whole(data, name) {
  const value = data[name];
  if (!Number.isSafeInteger(value) || value < 0) throw new Malformed(`\`${name}\` must be a whole number`);
  return value;
}

function hash(text) {
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}
