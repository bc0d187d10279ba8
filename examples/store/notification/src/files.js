// Files that are whole or not there: written beside, synced, renamed. Both the box and the journal are made of them.

import { open, rename, unlink } from 'node:fs/promises';
import path from 'node:path';

/** What a file is called while it is written; what has this name at the start was never finished. */
export const UNFINISHED = '.unfinished';

/** Puts a file in place. When this returns it is on disk, its name too; when it throws, nothing of it is there. */
export async function place(file, content) {
  const beside = `${file}${UNFINISHED}`;
  try {
    const handle = await open(beside, 'w', 0o600);
    try {
      await handle.writeFile(content);
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await rename(beside, file);
  } catch (error) {
    await unlink(beside).catch(() => {});
    throw error;
  }
  await syncFolder(path.dirname(file));
}

/** Makes names durable, of files that came and of those that went. */
export async function syncFolder(folder) {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
