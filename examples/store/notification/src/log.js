// Lines on standard output, one JSON object each. A line never holds an address of a person, nor a path that has one.

/** Writes one line; `fields` follow `time`, `level` and `message`. */
export function write(level, message, fields = {}) {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
}

/** An error with the chain of its causes. */
export function chain(error) {
  const parts = [];
  for (let cause = error; cause && parts.length < 8; cause = cause.cause) parts.push(String(cause.message ?? cause));
  return parts.join(': ');
}

// A reader that has gone away must not end the service.
process.stdout.on('error', () => {});
