// Who wants offers. Nobody is on the list who was not put on it, and everybody leaves it by the link in each mail.

import { randomBytes } from 'node:crypto';

const PREFIX = 'subscriber/';

export const SUBSCRIBERS_MAX = 1000;

export class Subscribers {
  #journal;
  #max;
  #byToken = new Map();
  #joining = 0;

  constructor(journal, max = SUBSCRIBERS_MAX) {
    this.#journal = journal;
    this.#max = max;
    for (const [email, { token }] of journal.entries(PREFIX)) this.#byToken.set(token, email);
  }

  /** `{ token, since }` or undefined. */
  get(email) {
    return this.#journal.get(PREFIX + email);
  }

  /** Everybody, with the token that takes them off the list. */
  all() {
    return [...this.#journal.entries(PREFIX)].map(([email, { token }]) => ({ email, token }));
  }

  emailOf(token) {
    return this.#byToken.get(token);
  }

  /** `joined`, `there` when the address was on the list already, or `full`. */
  async join(email, now) {
    if (this.get(email)) return 'there';
    if (this.#byToken.size + this.#joining >= this.#max) return 'full';
    const token = randomBytes(16).toString('hex');
    this.#joining += 1;
    try {
      await this.#journal.put([[PREFIX + email, { token, since: now.toISOString() }]]);
    } finally {
      this.#joining -= 1;
    }
    this.#byToken.set(token, email);
    return 'joined';
  }

  async leave(email) {
    const subscriber = this.get(email);
    if (subscriber === undefined) return;
    await this.#journal.put([[PREFIX + email, undefined]]);
    this.#byToken.delete(subscriber.token);
  }
}
