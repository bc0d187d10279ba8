// Mails as text: RFC 5322 with UTF-8 in headers by RFC 2047 and in the body by quoted-printable (RFC 2045 §6.7).
// Whatever a name or a subject contains, it stays within its header: control characters become spaces before anything
// else is done.

/** Octets of a line that no reader folds anew (RFC 5322 §2.1.1), without its end. */
const LINE_MAX = 76;
/** In base64, with `=?UTF-8?B?` and `?=`, a word is then 64 octets: it fits behind `Subject:` (76 a line, RFC 2047 §2). */
const WORD_OCTETS_MAX = 39;
const TEXT_MAX = 300;
const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

const ATOM = "[a-z0-9!#$%&'*+/=?^_`{|}~-]+";
const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
const ADDRESS = new RegExp(`^${ATOM}(?:\\.${ATOM})*@${LABEL}(?:\\.${LABEL})+$`);

/** An address in the form in which it is kept, or null: a dot-atom at a domain (RFC 5322 §3.4.1), nothing quoted. */
export function parseAddress(text) {
  const address = String(text).trim().toLowerCase();
  const local = address.indexOf('@');
  return address.length <= 254 && local <= 64 && ADDRESS.test(address) ? address : null;
}

/** A mail as bytes. `name` belongs to the sender; `headers` are pairs whose values are ASCII of ours. */
export function compose({ from, name, to, subject, date, messageId, headers = [], text }) {
  const lines = [
    `Date: ${formatDate(date)}`,
    fold('From', `${encodePhrase(name)} <${from}>`),
    `To: <${to}>`,
    fold('Subject', encodeText(subject)),
    `Message-ID: <${messageId}>`,
    ...headers.map(([header, value]) => fold(header, plain(value))),
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: quoted-printable',
    '',
    quotedPrintable(text),
  ];
  return Buffer.from(lines.join('\r\n'), 'latin1');
}

/** The headers of a mail of ours, names in lower case, unfolded and decoded. */
export function parseHead(bytes) {
  const end = bytes.indexOf('\r\n\r\n');
  const head = (end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1').replace(/\r\n[ \t]+/g, ' ');
  const found = new Map();
  for (const line of head.split('\r\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) found.set(line.slice(0, colon).toLowerCase(), decodeWords(line.slice(colon + 1).trim()));
  }
  const to = found.get('to');
  if (to !== undefined) found.set('to', to.replace(/^<|>$/g, ''));
  return found;
}

/** The text of a mail of ours. */
export function parseText(bytes) {
  const start = bytes.indexOf('\r\n\r\n');
  if (start < 0) return '';
  const body = bytes.subarray(start + 4).toString('latin1').replace(/=\r\n/g, '').replace(/\r\n/g, '\n');
  const octets = body.replace(/=([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return Buffer.from(octets, 'latin1').toString('utf8');
}

/** `Sat, 21 Nov 2026 22:00:00 +0000` (RFC 5322 §3.3). */
export function formatDate(date) {
  const two = (number) => String(number).padStart(2, '0');
  const month = `${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
  const time = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
  return `${DAYS[date.getUTCDay()]}, ${two(date.getUTCDate())} ${month} ${time} +0000`;
}

/** One line of text without anything that could end it. */
function plain(text) {
  return String(text).replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]+/g, ' ').replace(/\p{Surrogate}/gu, '\ufffd').trim();
}

/** Text in a header: as it is where it is short ASCII, else as encoded words, never split within a character. */
function encodeText(given) {
  const text = [...plain(given)].slice(0, TEXT_MAX).join('');
  if (text.length <= LINE_MAX - 20 && /^[\x20-\x7e]*$/.test(text) && !text.includes('=?')) return text;
  const words = [];
  let word = '';
  for (const character of text) {
    if (Buffer.byteLength(word + character) > WORD_OCTETS_MAX) {
      words.push(word);
      word = '';
    }
    word += character;
  }
  words.push(word);
  return words.map((part) => `=?UTF-8?B?${Buffer.from(part).toString('base64')}?=`).join(' ');
}

/** A display name: quoted, or encoded where that is needed (RFC 5322 §3.2.4, RFC 2047 §5). */
function encodePhrase(name) {
  const encoded = encodeText(name);
  return encoded.startsWith('=?') ? encoded : `"${encoded.replace(/["\\]/g, '\\$&')}"`;
}

/** A header broken at its spaces (RFC 5322 §2.2.3). */
function fold(name, value) {
  const lines = [`${name}:`];
  for (const word of value.split(' ')) {
    const last = lines[lines.length - 1];
    if (last.length + 1 + word.length > LINE_MAX && last !== `${name}:`) lines.push(` ${word}`);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines.join('\r\n');
}

function quotedPrintable(text) {
  return String(text).replace(/\r\n?/g, '\n').split('\n').map(quotedLine).join('\r\n');
}

function quotedLine(line) {
  const lines = [];
  let current = '';
  const octets = Buffer.from(line.replace(/\p{Surrogate}/gu, '\ufffd'));
  octets.forEach((octet, place) => {
    const isBlankAtEnd = (octet === 32 || octet === 9) && place === octets.length - 1;
    const isPlain = (octet === 9 || (octet >= 32 && octet <= 126)) && octet !== 61 && !isBlankAtEnd;
    const piece = isPlain ? String.fromCharCode(octet) : `=${octet.toString(16).toUpperCase().padStart(2, '0')}`;
    if (current.length + piece.length > LINE_MAX - 1) {
      lines.push(`${current}=`);
      current = '';
    }
    current += piece;
  });
  lines.push(current);
  return lines.join('\r\n');
}

function decodeWords(text) {
  return text
    .replace(/\?= =\?UTF-8\?B\?/g, '?==?UTF-8?B?')
    .replace(/(?:=\?UTF-8\?B\?[A-Za-z0-9+/=]*\?=)+/g, (words) => {
      const parts = words.slice(10, -2).split('?==?UTF-8?B?');
      return Buffer.concat(parts.map((part) => Buffer.from(part, 'base64'))).toString('utf8');
    });
}
