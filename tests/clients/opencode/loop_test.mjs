// A model server may end a stream cleanly without a finish_reason.  OpenCode answers
// that by asking again, at once and for ever; behind the gateway it must not.
//
//     TOLLGATE_BIN=target/debug/tollgate node --test loop_test.mjs
//
// WITHOUT_GATEWAY=1 shows what happens without one: the test then fails.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { findBinary, readEvents, runOpencode } from './opencode.mjs';

const { TOLLGATE_BIN, WITHOUT_GATEWAY } = process.env;
assert.ok(TOLLGATE_BIN || WITHOUT_GATEWAY, 'TOLLGATE_BIN is not set');
assert.ok(findBinary(), 'no OpenCode binary for this platform: set OPENCODE_BIN');
const KEY = 'sk-of-the-endless-loop-test-0123456789-abcdef';
const MODEL = 'unfinished';

function listen(server) {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

function event(delta) {
  const choices = [{ index: 0, delta, finish_reason: null }];
  const chunk = { id: 'chatcmpl-unfinished', object: 'chat.completion.chunk', created: 1, model: MODEL, choices };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

/** Every agent step gets a fragment and `[DONE]`; the instants of the requests are kept. */
async function startUnfinished() {
  const asked = [];
  const server = createHttpServer((request, response) => {
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

async function findFreePort() {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function startGateway(upstreamPort) {
  const folder = await mkdtemp(join(tmpdir(), 'tollgate-loop-'));
  await writeFile(join(folder, 'keys.json'), JSON.stringify({ loop: KEY }));
  const port = await findFreePort();
  const child = spawn(TOLLGATE_BIN, ['serve'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: {
      PATH: process.env.PATH,
      PORT: `${port}`,
      VLLM_ENDPOINT: `http://127.0.0.1:${upstreamPort}`,
      API_KEYS_FILE: join(folder, 'keys.json'),
      DATA_DIR: join(folder, 'data'),
      LOG_LEVEL: 'error',
    },
  });
  const ended = new Promise((resolve) => child.on('close', resolve));
  await awaitHealth(port, child);
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  return { port, stop };
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

test('a stream without a finish_reason does not make OpenCode ask for ever', async (context) => {
  const upstream = await startUnfinished();
  const gateway = WITHOUT_GATEWAY ? undefined : await startGateway(upstream.port);
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
