// A gateway of a test's own, in front of any server, with the keys and settings it needs.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Listens on a free port of this machine and tells which. */
export function listen(server) {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

async function findFreePort() {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/**
 * Starts `binary` with the key set `keys` (as in a keys file).  The answer holds the port,
 * `lines()`, the log so far as JSON, and `stop()`.
 */
export async function startGateway({ binary, upstream, keys, env = {} }) {
  const folder = await mkdtemp(join(tmpdir(), 'tollgate-client-'));
  await writeFile(join(folder, 'keys.json'), JSON.stringify(keys));
  const port = await findFreePort();
  const child = spawn(binary, ['serve'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      PORT: `${port}`,
      VLLM_ENDPOINT: upstream,
      API_KEYS_FILE: join(folder, 'keys.json'),
      DATA_DIR: join(folder, 'data'),
      LOG_FORMAT: 'json',
      ...env,
    },
  });
  let log = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (log += text));
  const ended = new Promise((resolve) => child.on('close', resolve));
  await awaitHealth(port, child);
  return {
    port,
    lines: () => log.split('\n').slice(0, -1).map((line) => JSON.parse(line)),
    async stop() {
      child.kill('SIGTERM');
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function awaitHealth(port, child) {
  for (const giveUp = Date.now() + 10_000; ; ) {
    assert.equal(child.exitCode, null, 'the gateway ended by itself');
    try {
      if ((await fetch(`http://127.0.0.1:${port}/health`)).ok) return;
    } catch {
      assert.ok(Date.now() < giveUp, 'the gateway does not answer');
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
