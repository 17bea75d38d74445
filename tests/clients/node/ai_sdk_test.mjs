// The AI SDK with its OpenAI-compatible provider, the library under OpenCode, against a
// running server.  Variables as in sdk_test.mjs.

import assert from 'node:assert/strict';
import test from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const { BASE_URL, UPSTREAM, DIRECT } = process.env;
const API_KEY = process.env.API_KEY ?? 'sk-no-key-is-asked-for';
assert.ok(BASE_URL, 'BASE_URL is not set');

async function findModel() {
  const answer = await fetch(`${BASE_URL}/models`, { headers: { 'x-api-key': API_KEY } });
  return (await answer.json()).data[0].id;
}

// Taken for granted where its address is not known.
const isVllm = !UPSTREAM || (await fetch(`${UPSTREAM.replace(/\/$/, '')}/version`)).status === 200;

/** Whether to leave out what a server of another make cannot do; vLLM has to. */
function skips(context, can, reason) {
  if (can || isVllm) return false;
  context.skip(reason);
  return true;
}

const id = process.env.MODEL ?? (await findModel());
const WEATHER = jsonSchema({
  type: 'object',
  properties: {
    city: { type: 'string', enum: ['Paris', 'Rome'] },
    unit: { type: 'string', enum: ['celsius', 'fahrenheit'] },
  },
  required: ['city', 'unit'],
  additionalProperties: false,
});

function ask(more = {}, options = { apiKey: API_KEY }) {
  const provider = createOpenAICompatible({ name: 'tollgate', baseURL: BASE_URL, includeUsage: true, ...options });
  return { model: provider(id), prompt: 'Hello there', temperature: 0, maxOutputTokens: 100, maxRetries: 0, ...more };
}

/** Text, finish reason and usage of a stream; an error part is thrown. */
async function collect(result) {
  let text = '';
  for await (const part of result.fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') text += part.text;
  }
  return { text, reason: await result.finishReason, usage: await result.usage };
}

test('a stream says what the plain call says', async (context) => {
  const plain = await generateText(ask());
  assert.ok(plain.text);
  const streamed = await collect(streamText(ask()));
  assert.equal(streamed.text, plain.text);
  assert.equal(streamed.reason, 'stop');
  if (skips(context, streamed.usage.outputTokens, 'the model server counts no streams')) return;
  assert.equal(streamed.usage.outputTokens, plain.usage.outputTokens);
  assert.ok(streamed.usage.inputTokens > 0);
});

test('a tool is called and its answer taken', async (context) => {
  const asked = [];
  const getWeather = tool({
    description: 'Weather of a city',
    inputSchema: WEATHER,
    execute: async ({ city }) => {
      asked.push(city);
      return '18 degrees';
    },
  });
  const request = ask({
    prompt: process.env.WEATHER_PROMPT ?? 'What is the weather like in Paris?',
    tools: { get_weather: getWeather },
    stopWhen: stepCountIs(3),
  });
  const plain = await generateText(request);
  if (skips(context, asked.length > 0, 'the model server parses no tool calls')) return;
  assert.deepEqual(asked, ['Paris']);
  assert.ok(plain.text);
  const streamed = await collect(streamText(request));
  assert.deepEqual(asked, ['Paris', 'Paris']);
  assert.equal(streamed.text, plain.text);
});

test('a stream can be aborted', async () => {
  const controller = new AbortController();
  const long = ask({
    prompt: 'Tell me a story [[tokens=1500 delay_ms=3]]',
    maxOutputTokens: 1500,
    providerOptions: { tollgate: { ignore_eos: true } },
    abortSignal: controller.signal,
  });
  let seen = 0;
  for await (const part of streamText(long).fullStream) {
    if (part.type === 'text-delta') seen += 1;
    if (seen === 3) controller.abort();
  }
  assert.ok(seen >= 3 && seen < 1000, `${seen} pieces`);
  assert.ok((await generateText(ask())).text);
});

if (!DIRECT) {
  test('a wrong key is told once, with the reason', async () => {
    const wrong = ask({ maxRetries: 2 }, { apiKey: 'sk-wrong-but-of-a-plausible-length-0123456789' });
    await assert.rejects(generateText(wrong), (error) => {
      assert.ok(APICallError.isInstance(error), `${error}`);
      assert.equal(error.statusCode, 401);
      assert.equal(error.isRetryable, false);
      assert.equal(error.message, JSON.parse(error.responseBody).error.message);
      return true;
    });
  });

  test('the key is taken from X-API-Key alone', async () => {
    assert.ok((await generateText(ask({}, { headers: { 'X-API-Key': API_KEY } }))).text);
  });
}
