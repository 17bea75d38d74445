// What `tollgate opencode-config` prints, as OpenCode's only configuration.
//
//     TOLLGATE_BIN=... BASE_URL=http://127.0.0.1:8000/v1 API_KEY=... MODEL=ID node --test config_test.mjs

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test from 'node:test';
import { promisify } from 'node:util';
import { runOpencode } from './opencode.mjs';
import { checkTurn } from './turn.mjs';

const { TOLLGATE_BIN, BASE_URL, API_KEY, MODEL } = process.env;
assert.ok(TOLLGATE_BIN && BASE_URL && API_KEY && MODEL, 'TOLLGATE_BIN, BASE_URL, API_KEY and MODEL have to be set');
const ENV = { TOLLGATE_API_KEY: API_KEY };

/** What the verb prints; the key is in its environment and nothing else. */
async function print(...options) {
  const { stdout, stderr } = await promisify(execFile)(
    TOLLGATE_BIN,
    ['opencode-config', '--url', BASE_URL, ...options],
    { env: ENV, timeout: 30_000 },
  );
  assert.ok(!stdout.includes(API_KEY), 'the key stands in the configuration');
  assert.equal(stderr, '');
  return JSON.parse(stdout);
}

test('a turn with the printed configuration and the model that it names', async () => {
  const config = await print();
  assert.equal(config.model, `tollgate/${MODEL}`);
  await checkTurn({ config, env: ENV });
});

test('a turn with the printed configuration and an alias', async () =>
  checkTurn({ config: await print(), env: ENV, model: 'tollgate/opencode-llm' }));

test('a turn with the key as X-API-Key', async () => checkTurn({ config: await print('--x-api-key'), env: ENV }));

test('OpenCode lists every model of the printed configuration', async () => {
  const config = await print();
  const result = await runOpencode({ config, env: ENV, args: ['models'], timeoutMs: 30_000 });
  await result.remove();
  assert.equal(result.code, 0, result.stderr);
  const listed = result.stdout.split('\n').filter((line) => line.startsWith('tollgate/'));
  const printed = Object.keys(config.provider.tollgate.models).map((id) => `tollgate/${id}`);
  assert.ok(printed.length >= 2, `${printed}`);
  assert.deepEqual(listed.sort(), printed.sort());
  assert.deepEqual(result.outside, [], 'OpenCode wanted to leave this machine');
});

test('OpenCode reads the limits of the printed configuration', async () => {
  const config = await print();
  const result = await runOpencode({ config, env: ENV, args: ['models', 'tollgate', '--verbose'], timeoutMs: 30_000 });
  await result.remove();
  assert.equal(result.code, 0, result.stderr);
  for (const { limit } of Object.values(config.provider.tollgate.models)) {
    for (const [name, tokens] of Object.entries(limit)) {
      assert.match(result.stdout, new RegExp(`"${name}": ${tokens}\\b`), `${name} of ${JSON.stringify(limit)}`);
    }
  }
});
