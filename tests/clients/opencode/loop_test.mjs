// A model server may end a stream cleanly without a finish_reason.  OpenCode answers
// that by asking again, at once and for ever; behind the gateway it must not.
//
//     TOLLGATE_BIN=target/debug/tollgate node --test loop_test.mjs
//
// WITHOUT_GATEWAY=1 shows what happens without one: the test then fails.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test from 'node:test';
import { listen, startGateway } from './gateway.mjs';
import { findBinary, readEvents, runOpencode } from './opencode.mjs';

const { TOLLGATE_BIN, WITHOUT_GATEWAY } = process.env;
assert.ok(TOLLGATE_BIN || WITHOUT_GATEWAY, 'TOLLGATE_BIN is not set');
assert.ok(findBinary(), 'no OpenCode binary for this platform: set OPENCODE_BIN');
const KEY = 'sk-of-the-endless-loop-test-0123456789-abcdef';
const MODEL = 'unfinished';

function event(delta) {
  const choices = [{ index: 0, delta, finish_reason: null }];
  const chunk = { id: 'chatcmpl-unfinished', object: 'chat.completion.chunk', created: 1, model: MODEL, choices };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

/** Every agent step gets a fragment and `[DONE]`; the instants of the requests are kept. */
async function startUnfinished() {
  const asked = [];
  const server = createServer((request, response) => {
    if (request.url !== '/v1/chat/completions') {
      const models = { object: 'list', data: [{ id: MODEL, object: 'model', max_model_len: 32768 }] };
      request.resume();
      response.setHeader('content-type', 'application/json');
      response.statusCode = request.url === '/v1/models' ? 200 : 404;
      response.end(JSON.stringify(response.statusCode === 200 ? models : { detail: 'Not Found' }));
      return;
    }
    let body = '';
    request.on('data', (bytes) => (body += bytes));
    request.on('end', () => {
      // The title request has no tools; it is not part of the loop.
      if (JSON.parse(body).tools) asked.push(Date.now());
      response.setHeader('content-type', 'text/event-stream');
      response.end(`${event({ role: 'assistant', content: '' })}${event({ content: 'a fragment' })}data: [DONE]\n\n`);
    });
  });
  return { asked, port: await listen(server), close: () => server.close() };
}

test('a stream without a finish_reason does not make OpenCode ask for ever', async (context) => {
  const upstream = await startUnfinished();
  const gateway = WITHOUT_GATEWAY
    ? undefined
    : await startGateway({
        binary: TOLLGATE_BIN,
        upstream: `http://127.0.0.1:${upstream.port}`,
        keys: { loop: KEY },
        env: { LOG_LEVEL: 'error' },
      });
  const port = gateway?.port ?? upstream.port;
  const options = { baseURL: `http://127.0.0.1:${port}/v1`, apiKey: KEY };
  const models = { [MODEL]: { limit: { context: 32768, output: 1024 } } };
  try {
    const result = await runOpencode({
      config: { provider: { loop: { npm: '@ai-sdk/openai-compatible', options, models } } },
      model: `loop/${MODEL}`,
      prompt: 'Say something.',
      // Six requests with OpenCode's own pauses between them take up to 75 s.
      timeoutMs: WITHOUT_GATEWAY ? 20_000 : 120_000,
    });
    await result.remove();
    const early = upstream.asked.filter((at) => at - upstream.asked[0] < 20_000);
    context.diagnostic(`${upstream.asked.length} requests, ${early.length} of them in the first 20 s`);
    assert.ok(early.length > 0, `OpenCode never asked:\n${result.stderr}`);
    assert.ok(early.length <= 6, `${early.length} requests in the first 20 s`);
    assert.ok(upstream.asked.length <= 7, `${upstream.asked.length} requests`);
    assert.ok(!result.timedOut, 'OpenCode did not end');
    assert.equal(result.code, 1, `${result.stdout}\n${result.stderr}`);
    const { errors } = readEvents(result.stdout);
    assert.ok(errors.length > 0 || /error/i.test(result.stderr), 'no error was shown');
  } finally {
    await gateway?.stop();
    upstream.close();
  }
});
