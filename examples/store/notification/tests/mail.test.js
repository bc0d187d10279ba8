// Mails as text: what is written is what other programs read, and nothing that is put in gets out of its place.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import test from 'node:test';

import { compose, formatDate, parseAddress, parseHead, parseText } from '../src/mail.js';
import { money } from '../src/templates.js';

const PLAIN = { from: 'shop@lagoon.example', name: 'Lagoon', to: 'ann@example.org', subject: 'Hello', messageId: 'x@lagoon.example', date: new Date(0), text: 'Hi' };

const SUBJECTS = [
  'Plain', '', ' ', 'Café crème', '=?UTF-8?B?WA==?=', 'x'.repeat(200), 'word '.repeat(50).trim(), '灯'.repeat(120), '🏮'.repeat(60), 'a🏮'.repeat(50),
  'tab\there', 'é'.repeat(39), 'a "quote" \\ and <angle>', 'Now €1,249.00', 'e\u0301'.repeat(80),
];
const TEXTS = [
  '', 'one', 'a\nb\n', 'trailing space \nand tab\t', '= equals =3D', 'x'.repeat(500), 'é'.repeat(200), '🏮'.repeat(100), '.\n..\nFrom me', 'word '.repeat(60),
  'x'.repeat(75), 'x'.repeat(76), `${'x'.repeat(74)}é`, `${'x'.repeat(75)} `, '\0\x01\x7f',
];

test('a mail is what RFC 5322 says, line by line', () => {
  const bytes = compose({ ...PLAIN, subject: 'Café', text: 'Grüße\n= end', headers: [['List-Unsubscribe', '<http://shop.example/x>']] });
  assert.equal(bytes.toString('latin1'), [
    'Date: Thu, 01 Jan 1970 00:00:00 +0000', 'From: "Lagoon" <shop@lagoon.example>', 'To: <ann@example.org>',
    'Subject: =?UTF-8?B?Q2Fmw6k=?=', 'Message-ID: <x@lagoon.example>', 'List-Unsubscribe: <http://shop.example/x>',
    'MIME-Version: 1.0', 'Content-Type: text/plain; charset=utf-8', 'Content-Transfer-Encoding: quoted-printable', '',
    'Gr=C3=BC=C3=9Fe', '=3D end',
  ].join('\r\n'));
});

test('whatever is written can be read again, in short lines of ASCII', () => {
  for (const subject of SUBJECTS) {
    for (const text of TEXTS) {
      const bytes = compose({ ...PLAIN, name: subject || 'Lagoon', subject, text });
      const lines = bytes.toString('latin1').split('\r\n');
      for (const line of lines) {
        assert.ok(line.length <= 76, line);
        assert.match(line, /^[\t\x20-\x7e]*$/);
      }
      assert.equal(parseHead(bytes).get('subject'), subject.replace(/\t/g, ' ').trim());
      assert.equal(parseHead(bytes).get('to'), 'ann@example.org');
      assert.equal(parseText(bytes), text);
    }
  }
});

test('nothing ends the header that it is in', () => {
  const header = 'X-Evil: 1';
  for (const end of ['\r\n', '\n', '\r', '\0', '\u0085', '\u2028', '\r\n\r\n', '\r\n ', 'é\r\n']) {
    const bytes = compose({ ...PLAIN, name: `N${end}${header}`, subject: `S${end}${header}`, headers: [['X-Ours', `O${end}${header}`]] });
    const head = bytes.toString('latin1').split('\r\n\r\n')[0];
    assert.equal(head.split('\r\n').filter((line) => line.startsWith('X-Evil')).length, 0, JSON.stringify(end));
    assert.deepEqual([...parseHead(bytes).keys()], ['date', 'from', 'to', 'subject', 'message-id', 'x-ours', 'mime-version', 'content-type', 'content-transfer-encoding']);
  }
});

test('half a character is replaced', () => {
  const bytes = compose({ ...PLAIN, subject: 'a\ud800b', text: 'c\udfffd' });
  assert.equal(parseHead(bytes).get('subject'), 'a\ufffdb');
  assert.equal(parseText(bytes), 'c\ufffdd');
});

test('damaged mails are read as far as they go', () => {
  const bytes = compose({ ...PLAIN, subject: '🏮'.repeat(60), text: 'é'.repeat(200) });
  for (let end = 0; end < bytes.length; end += 1) {
    parseHead(bytes.subarray(0, end));
    parseText(bytes.subarray(0, end));
  }
});

test('addresses are those that need no quoting, in one form', () => {
  for (const [given, kept] of [['Ann@Example.ORG', 'ann@example.org'], [' a.b+c@x-y.example ', 'a.b+c@x-y.example'], ["o'neil@example.org", "o'neil@example.org"]]) {
    assert.equal(parseAddress(given), kept);
  }
  const wrong = ['', 'ann', '@example.org', 'ann@', 'ann@localhost', 'a b@example.org', 'ann@example..org', '.ann@example.org', 'ann@-x.org', 'a@b@c.org',
    'ann@example.org\r\nBcc: x@y.org', 'ann@example.org,x@y.org', '"ann"@example.org', 'änn@example.org', `${'x'.repeat(65)}@example.org`,
    `a@${'x'.repeat(64)}.org`, `a@${'x.'.repeat(200)}org`, '<ann@example.org>', 'a'.repeat(100_000)];
  for (const given of wrong) assert.equal(parseAddress(given), null, given);
});

test('dates and amounts are written out', () => {
  assert.equal(formatDate(new Date('2026-11-21T22:03:04.500Z')), 'Sat, 21 Nov 2026 22:03:04 +0000');
  for (const [minor, currency, text] of [[0, 'EUR', '€0.00'], [5, 'EUR', '€0.05'], [124900, 'USD', '$1,249.00'], [123456789, 'CHF', 'CHF\u00a01,234,567.89']]) {
    assert.equal(money(minor, currency), text);
  }
});

const NAMES = ['Lagoon', 'Café Lagoon', 'The "Lagoon" \\ shop, est. 2026'];

const PYTHON = `
import email, email.policy, json, sys
mails = json.load(sys.stdin)
read = [email.message_from_string(mail, policy=email.policy.default) for mail in mails]
print(json.dumps([[m["subject"], m["from"].addresses[0].display_name, m["to"].addresses[0].addr_spec, m.get_content(), len(m.defects)] for m in read]))
`;

test('another program reads the same', (context) => {
  if (spawnSync('python3', ['--version']).status !== 0) return context.skip('there is no python3');
  const wanted = SUBJECTS.map((subject, place) => ({ subject: subject.replace(/\t/g, ' ').trim(), text: TEXTS[place % TEXTS.length] }));
  const mails = wanted.map(({ subject, text }) => compose({ ...PLAIN, name: NAMES[subject.length % NAMES.length], subject, text }).toString('latin1'));
  const read = spawnSync('python3', ['-c', PYTHON], { input: JSON.stringify(mails), encoding: 'utf8', env: { ...process.env, PYTHONIOENCODING: 'utf8' } });
  assert.equal(read.status, 0, read.stderr);
  JSON.parse(read.stdout).forEach(([subject, name, to, text, defects], place) => {
    assert.equal(subject, wanted[place].subject);
    assert.equal(name, NAMES[wanted[place].subject.length % NAMES.length]);
    assert.equal(to, 'ann@example.org');
    assert.equal(text.replace(/\r\n/g, '\n').replace(/\n$/, ''), wanted[place].text.replace(/\n$/, ''));
    assert.equal(defects, 0);
  });
});
