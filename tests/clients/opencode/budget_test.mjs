// Token budgets as users of OpenCode meet them: a turn that asks for more than there is runs,
// and one that finds nothing left ends within seconds and says why.
//
//     TOLLGATE_BIN=target/debug/tollgate UPSTREAM=http://127.0.0.1:8001 MODEL=ID node --test budget_test.mjs
//
// UPSTREAM is the project's model server: it follows the directives in the prompts.

import assert from 'node:assert/strict';
import test from 'node:test';
import { startGateway } from './gateway.mjs';
import { findBinary, readEvents, runOpencode } from './opencode.mjs';

const { TOLLGATE_BIN, UPSTREAM, MODEL } = process.env;
assert.ok(TOLLGATE_BIN && UPSTREAM && MODEL, 'TOLLGATE_BIN, UPSTREAM and MODEL have to be set');
assert.ok(findBinary(), 'no OpenCode binary for this platform: set OPENCODE_BIN');
const KEY = 'sk-of-the-budget-test-0123456789-abcdef';
// OpenCode asks for 32000 tokens, for the title and for the turn at once.
const ROOM_FOR_ONE = 60_000;
// From the first refusal: shorter than OpenCode's pauses before it asks again.
const SECONDS = 10;

function limited(tokens) {
  return startGateway({
    binary: TOLLGATE_BIN,
    upstream: UPSTREAM,
    keys: { limited: { key: KEY, token_limit: tokens } },
  });
}

/** A turn with a configuration that sets no limit for the model. */
function turn(port, prompt, timeoutMs) {
  const options = { baseURL: `http://127.0.0.1:${port}/v1`, apiKey: KEY };
  const config = { provider: { gateway: { npm: '@ai-sdk/openai-compatible', options, models: { [MODEL]: {} } } } };
  return runOpencode({ config, model: `gateway/${MODEL}`, prompt, timeoutMs });
}

function codes(lines) {
  return lines.filter((line) => line.message === 'refused').map((line) => line.code);
}

test('a turn that asks for more than the limit at once is not refused', async (context) => {
  const gateway = await limited(ROOM_FOR_ONE);
  try {
    // Slow enough for the two calls to be under way together.
    const result = await turn(gateway.port, 'Write a note and read it back. [[agent head_delay_ms=2500]]', 60_000);
    await result.remove();
    const shown = `${result.stdout}\n${result.stderr}`;
    assert.equal(result.code, 0, shown);
    assert.deepEqual(readEvents(result.stdout).tools.map((part) => part.tool), ['write', 'bash', 'read'], shown);
    const lines = gateway.lines();
    assert.deepEqual(codes(lines), []);
    const rows = lines.filter((line) => line.message === 'usage').map((line) => line.usage);
    assert.ok(rows.length >= 5, `${rows.length} calls: the title and four steps are five`);
    assert.deepEqual([...new Set(rows.map((row) => row.status))], [200]);
    const spans = rows.map((row) => [Date.parse(row.started_at), Date.parse(row.finished_at)]);
    const overlap = spans.some(([begin], at) => spans.some((other, to) => to !== at && other[0] <= begin && begin < other[1]));
    assert.ok(overlap, 'no two calls were under way together');
    context.diagnostic(`${rows.length} calls, ${rows.reduce((sum, row) => sum + row.total_tokens, 0)} tokens`);
  } finally {
    await gateway.stop();
  }
});

test('a turn that finds the budget used up ends within seconds and says so', async (context) => {
  const gateway = await limited(3000);
  try {
    const text = await useUp(gateway.port);
    const before = codes(gateway.lines()).length;
    const result = await turn(gateway.port, 'Say something.', 60_000);
    const ended = Date.now();
    await result.remove();
    const refusals = gateway.lines().filter((line) => line.message === 'refused').slice(before);
    assert.ok(refusals.length > 0, `OpenCode never asked:\n${result.stderr}`);
    const seconds = (ended - Date.parse(refusals[0].time)) / 1000;
    const asked = codes(refusals);
    context.diagnostic(`${seconds.toFixed(1)} s, ${asked.length} requests`);
    const shown = `${result.stdout}\n${result.stderr}`;
    assert.equal(result.code, 1, shown);
    assert.ok(seconds < SECONDS, `it took ${seconds} s`);
    assert.ok(shown.includes(text), `${JSON.stringify(text)} is not in ${shown}`);
    assert.deepEqual([...new Set(asked)], ['token_limit_exceeded']);
    assert.ok(asked.length <= 15, `${asked.length} requests`);
  } finally {
    await gateway.stop();
  }
});

/** Calls until the budget is used up; the text of the refusal. */
async function useUp(port) {
  for (let calls = 0; calls < 100; calls += 1) {
    const answer = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-api-key': KEY },
      body: JSON.stringify({
        model: MODEL,
        messages: [{ role: 'user', content: 'Tell me a story [[tokens=400]]' }],
        max_tokens: 400,
      }),
    });
    const body = await answer.json();
    if (answer.status === 200) continue;
    assert.equal(answer.status, 429, JSON.stringify(body));
    assert.equal(body.error.code, 'token_limit_exceeded');
    assert.equal(answer.headers.get('x-should-retry'), 'false');
    assert.equal(answer.headers.get('retry-after'), null);
    return body.error.message;
  }
  throw new assert.AssertionError({ message: 'the budget is never used up' });
}
