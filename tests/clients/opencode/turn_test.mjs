// OpenCode turns through the gateway: a whole agent turn with each way to give the
// key, and the configurations that the first users of such gateways were told to write.
//
//     BASE_URL=http://127.0.0.1:8000/v1 API_KEY=... MODEL=ID node --test turn_test.mjs
//
// The model behind the gateway has to call write, bash and read, in this order, and
// then to say what it read; the tests compare what it called for with what happened.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { findBinary, runOpencode } from './opencode.mjs';
import { checkTurn, PROMPT } from './turn.mjs';

const { BASE_URL, API_KEY, MODEL } = process.env;
assert.ok(BASE_URL && API_KEY && MODEL, 'BASE_URL, API_KEY and MODEL have to be set');
assert.ok(findBinary(), 'no OpenCode binary for this platform: set OPENCODE_BIN');

async function readSeed(name) {
  return JSON.parse(await readFile(join(import.meta.dirname, 'seeds', name), 'utf8'));
}

function configure(options) {
  return {
    $schema: 'https://opencode.ai/config.json',
    provider: {
      tollgate: {
        npm: '@ai-sdk/openai-compatible',
        name: 'Tollgate',
        options: { baseURL: BASE_URL, ...options },
        models: { [MODEL]: { name: MODEL, limit: { context: 32768, output: 4096 } } },
      },
    },
  };
}

for (const [name, options] of Object.entries({
  'as Bearer': { apiKey: '{env:TOLLGATE_KEY}' },
  'as X-API-Key': { headers: { 'X-API-Key': '{env:TOLLGATE_KEY}' } },
  'as both': { apiKey: '{env:TOLLGATE_KEY}', headers: { 'X-API-Key': '{env:TOLLGATE_KEY}' } },
})) {
  test(`a turn with the key ${name}`, () =>
    checkTurn({
      config: configure(options),
      model: `tollgate/${MODEL}`,
      env: { TOLLGATE_KEY: API_KEY },
    }));
}

// Only the address is changed: the provider, the alias, no limit (32000 tokens are asked
// for), the key where /connect puts it.
test('the configuration of seed 000', async () => {
  const config = await readSeed('000.opencode.json');
  config.provider['llm-user-managed'].options.baseURL = BASE_URL;
  await checkTurn({
    config,
    auth: { 'llm-user-managed': { type: 'api', key: API_KEY } },
    model: 'llm-user-managed/opencode-llm',
  });
});

test('the alias of seed 001', async () => {
  const config = await readSeed('001.opencode.json');
  Object.assign(config.provider['llm-user-managed'].options, { baseURL: BASE_URL, apiKey: API_KEY });
  await checkTurn({ config, model: 'llm-user-managed/llm-user-managed' });
});

test('the configuration of seed 002', async () => {
  const config = await readSeed('002.opencode.json');
  const provider = config.provider['vllm-deepseek'];
  provider.options.baseURL = BASE_URL;
  provider.models = { [MODEL]: Object.values(provider.models)[0] };
  await checkTurn({ config, model: `vllm-deepseek/${MODEL}`, env: { VLLM_API_KEY: API_KEY } });
});

// Openwork writes the server address that its user typed, often without /v1.
test('the base URL without its version, as in seed 004', () =>
  checkTurn({
    config: configure({ baseURL: BASE_URL.replace(/\/v1\/?$/, ''), apiKey: API_KEY }),
    model: `tollgate/${MODEL}`,
  }));

test('a wrong key ends the turn at once with the reason', async () => {
  const result = await runOpencode({
    config: configure({ apiKey: 'sk-wrong-but-of-a-plausible-length-0123456789' }),
    model: `tollgate/${MODEL}`,
    prompt: PROMPT,
    timeoutMs: 30_000,
  });
  await result.remove();
  assert.ok(!result.timedOut, `OpenCode went on asking:\n${result.stdout}\n${result.stderr}`);
  assert.equal(result.code, 1, result.stdout);
  assert.match(`${result.stdout}${result.stderr}`, /key/i);
});
