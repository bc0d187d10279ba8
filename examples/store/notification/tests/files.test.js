// What is on disk: the journal and the box, and what they make of a file that a crash or a hand has changed.

import assert from 'node:assert/strict';
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'node:test';

import { Box } from '../src/box.js';
import { Journal } from '../src/journal.js';
import { compose } from '../src/mail.js';
import { folder } from './service.js';

async function opened(file) {
  const journal = new Journal(file);
  await journal.open();
  return journal;
}

test('a journal keeps what it acknowledged, the last word on each', async (t) => {
  const file = path.join(await folder(t), 'journal');
  const first = await opened(file);
  await Promise.all(Array.from({ length: 500 }, (_, number) => first.put([[`k/${number % 50}`, { number }]])));
  await first.put([['k/0', undefined], ['other', 'x']]);
  await first.close();
  const second = await opened(file);
  assert.equal(second.get('k/0'), undefined);
  assert.deepEqual(second.get('k/7'), { number: 457 });
  assert.equal([...second.entries('k/')].length, 49);
  assert.equal((await readFile(file, 'utf8')).split('\n').length, 51, 'what was overwritten is gone');
  await second.close();
});

test('of a torn end nothing is taken, and a damaged line costs itself only', async (t) => {
  const file = path.join(await folder(t), 'journal');
  const whole = '["a",1]\n["b",2]\n["c",3]\n';
  for (let end = 0; end <= whole.length; end += 1) {
    await writeFile(file, whole.slice(0, end));
    const journal = await opened(file);
    const kept = [...journal.entries('')].length;
    assert.equal(kept, whole.slice(0, end).split('\n').length - 1);
    await journal.put([['d', 4]]);
    await journal.close();
    assert.equal([...(await opened(file)).entries('')].length, kept + 1);
  }
  await writeFile(file, '["a",1]\nnot json\n{"x":1}\n["b",2]\n');
  assert.deepEqual([...(await opened(file)).entries('')], [['a', 1], ['b', 2]]);
});

test('what could not be written is not acknowledged, and the journal goes on afterwards', async (t) => {
  const here = await folder(t);
  const file = path.join(here, 'sub', 'journal');
  await mkdir(path.dirname(file));
  const journal = await opened(file);
  await journal.put([['a', 1]]);
  // So many lines that the file is written anew, in a folder that is not there.
  await rename(path.join(here, 'sub'), path.join(here, 'away'));
  await journal.put(Array.from({ length: 5000 }, () => ['many', 1]));
  await assert.rejects(journal.put([['b', 2]]), /cannot be written/);
  assert.equal(journal.get('b'), undefined);
  await rename(path.join(here, 'away'), path.join(here, 'sub'));
  await journal.put([['c', 3]]);
  await journal.close();
  assert.deepEqual([...(await opened(file)).entries('')], [['a', 1], ['many', 1], ['c', 3]]);
});

const mail = (number, to = 'ann@example.org') => ({ id: String(number).padStart(32, '0'), at: 1000 + number, to, subject: `Mail ${number}` });
const bytes = ({ to, subject }) => compose({ from: 'a@b.example', name: 'A', to, subject, date: new Date(0), messageId: 'x', text: 'é' });

async function box(here, max) {
  const made = new Box(here, max);
  await made.open();
  return made;
}

test('a mail is in the box once, and there is as much as may be, the newest', async (t) => {
  const here = await folder(t);
  const first = await box(here, 5);
  const put = (number) => first.put(mail(number).id, mail(number).at, bytes(mail(number)));
  assert.equal(await put(1), true);
  assert.equal(await put(1), false);
  await Promise.all([2, 3, 3, 4, 5, 6, 7].map(put));
  assert.equal((await readdir(here)).length, 5);
  assert.equal(await put(1), false, 'it is older than all that are there');
  const second = await box(here, 3);
  assert.deepEqual(second.list('', 0, 10).mails.map(({ subject }) => subject), ['Mail 7', 'Mail 6', 'Mail 5']);
  assert.equal((await readdir(here)).length, 3);
});

test('mails are found by their recipient, page by page', async (t) => {
  const here = await folder(t);
  const first = await box(here);
  for (let number = 0; number < 10; number += 1) {
    const one = mail(number, number % 2 ? 'ann@example.org' : 'bob@example.org');
    await first.put(one.id, one.at, bytes(one));
  }
  for (const made of [first, await box(here)]) {
    const page = made.list('BOB', 2, 2);
    assert.deepEqual([page.total, page.mails.map(({ subject }) => subject)], [5, ['Mail 4', 'Mail 2']]);
    assert.deepEqual(made.list('', 100, 10), { total: 10, mails: [] });
    assert.match((await made.read(mail(3).id)).toString(), /Mail 3/);
    assert.equal(await made.read('f'.repeat(32)), null);
  }
});

test('what is no mail is left alone, what was never finished goes, what is gone is missing', async (t) => {
  const here = await folder(t);
  const first = await box(here);
  await first.put(mail(1).id, mail(1).at, bytes(mail(1)));
  const [name] = await readdir(here);
  await writeFile(path.join(here, `${name}.unfinished`), 'x');
  await writeFile(path.join(here, 'notes.txt'), 'x');
  await writeFile(path.join(here, `${'9'.repeat(15)}-${'a'.repeat(32)}.eml`), Buffer.from([0, 255, 13, 10]));
  const second = await box(here);
  assert.deepEqual(second.list('', 0, 10).total, 2);
  assert.equal((await readdir(here)).length, 3);
  await rm(path.join(here, name));
  assert.equal(await second.read(mail(1).id), null);
});

test('a box that takes nothing says so and has nothing', async (t) => {
  const here = path.join(await folder(t), 'box');
  const first = await box(here);
  await rename(here, `${here} away`);
  await assert.rejects(first.put(mail(1).id, mail(1).at, bytes(mail(1))));
  assert.equal(first.list('', 0, 10).total, 0);
  await rename(`${here} away`, here);
  assert.equal(await first.put(mail(1).id, mail(1).at, bytes(mail(1))), true);
});
