// The official OpenAI SDK for Node against a running server.
//
//     BASE_URL=http://127.0.0.1:8000/v1 API_KEY=... [MODEL=ID] [UPSTREAM=URL] node --test sdk_test.mjs
//         [WEATHER_PROMPT=what makes the model call the tool get_weather]
//         [LIMITED_KEY=a key with a token budget of a few thousand, which is used up]
//     DIRECT=1 BASE_URL=http://127.0.0.1:8001/v1 node --test sdk_test.mjs
//
// With DIRECT the server is the model server itself: what only the gateway does
// (keys, body limit, retrieving one model) is left out.  UPSTREAM is the model
// server behind the gateway; its /metrics then prove that an abort reached it.

import assert from 'node:assert/strict';
import test from 'node:test';
import OpenAI from 'openai';

const { BASE_URL, UPSTREAM, DIRECT, LIMITED_KEY } = process.env;
const API_KEY = process.env.API_KEY ?? 'sk-no-key-is-asked-for';
const BODY_LIMIT_BYTES = Number(process.env.BODY_LIMIT_BYTES ?? 33554432);
const WRONG_KEY = 'sk-wrong-but-of-a-plausible-length-0123456789';
assert.ok(BASE_URL, 'BASE_URL is not set');

const HELLO = [{ role: 'user', content: 'Hello there' }];
const WEATHER = [{ role: 'user', content: process.env.WEATHER_PROMPT ?? 'What is the weather like in Paris?' }];
const WEATHER_TOOL = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Weather of a city',
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string', enum: ['Paris', 'Rome'] },
        unit: { type: 'string', enum: ['celsius', 'fahrenheit'] },
      },
      required: ['city', 'unit'],
      additionalProperties: false,
    },
  },
};
// A stream of this many tokens takes seconds, so that it can be left in the middle: vLLM goes
// on because of ignore_eos, the project's own model server because of the directive.
const LONG_TOKENS = 1500;
const LONG = {
  messages: [{ role: 'user', content: `Tell me a story [[tokens=${LONG_TOKENS} delay_ms=3]]` }],
  max_tokens: LONG_TOKENS,
  ignore_eos: true,
};

function makeClient(headers = {}, more = {}) {
  return new OpenAI({
    baseURL: BASE_URL,
    apiKey: API_KEY,
    defaultHeaders: headers,
    maxRetries: 0,
    timeout: 30_000,
    ...more,
  });
}

const client = makeClient();
const model = process.env.MODEL ?? (await client.models.list()).data[0].id;

function chat(fields = {}, by = client, options = {}) {
  return by.chat.completions.create(
    { model, messages: HELLO, max_tokens: 32, temperature: 0, ...fields },
    options,
  );
}

const askUpstream = (path) => fetch(`${UPSTREAM.replace(/\/$/, '')}${path}`);
// Taken for granted where its address is not known.
const isVllm = !UPSTREAM || (await askUpstream('/version')).status === 200;
const countsWork = UPSTREAM && (isVllm || (await askUpstream('/metrics')).status === 200);

/** Whether to leave out what a server of another make cannot do; vLLM has to. */
function skips(context, can, reason) {
  if (can || isVllm) return false;
  context.skip(reason);
  return true;
}

const GOES_ON = 'the model server goes on generating';

/** Tokens that the model server has generated so far, by its own count. */
async function countGenerated() {
  const page = await (await askUpstream('/metrics')).text();
  // llama.cpp's steps: it counts tokens when a call ends.
  const names = /^(vllm:generation_tokens_total|llamacpp:n_decode_total)/;
  const counts = page.split('\n').filter((line) => names.test(line));
  assert.ok(counts.length > 0, `the model server's /metrics has none of ${names}`);
  return counts.map((line) => Number(line.split(' ').at(-1))).reduce((sum, one) => sum + one, 0);
}

/** What `run` begins and leaves must leave the model server idle long before its end. */
async function workEndsEarly(run) {
  if (!countsWork) return run();
  const before = await countGenerated();
  await run();
  const giveUp = Date.now() + 5000;
  let last = -1;
  let now = await countGenerated();
  while (now !== last) {
    assert.ok(Date.now() < giveUp, GOES_ON);
    await new Promise((resolve) => setTimeout(resolve, 100));
    last = now;
    now = await countGenerated();
  }
  const made = now - before;
  assert.ok(made > 0, 'nothing was generated');
  assert.ok(made < (LONG_TOKENS * 2) / 3, `${GOES_ON}: ${made} of ${LONG_TOKENS} tokens`);
}

/** The error that `call` must raise, of exactly this class and status. */
async function refused(call, kind, status) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    assert.equal(error.constructor.name, kind.name, `${error}`);
    assert.equal(error.status, status);
    assert.equal(typeof error.error?.message, 'string', `no error object: ${error}`);
    assert.equal(error.message, `${status} ${error.error.message}`);
    assert.equal(error.type, error.error.type);
    return error;
  }
  throw new assert.AssertionError({ message: `no error, but ${JSON.stringify(answer)}` });
}

function hasNoDigits(error) {
  assert.doesNotMatch(error.error.message, /\d/, "digits in the gateway's own text");
}

/** Text, finish reason, usage chunks and all chunks of a chat stream with one choice. */
async function readStream(call) {
  const chunks = [];
  for await (const chunk of await call) chunks.push(chunk);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const reasons = choices.map((choice) => choice.finish_reason).filter(Boolean);
  assert.equal(reasons.length, 1, `finish reasons: ${reasons}`);
  const text = choices.map((choice) => choice.delta.content ?? '').join('');
  return { text, reason: reasons[0], usages: chunks.filter((chunk) => chunk.usage), chunks };
}

function checkUsage(usage, completionTokens) {
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0, JSON.stringify(usage));
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  if (completionTokens !== undefined) assert.equal(usage.completion_tokens, completionTokens);
}

function onlyGateway(name, run) {
  if (!DIRECT) test(name, { timeout: 60_000 }, run);
}

function everywhere(name, run) {
  test(name, { timeout: 60_000 }, run);
}

everywhere('models are listed', async () => {
  const { data } = await client.models.list();
  assert.ok(data.some((one) => one.id === model));
  assert.deepEqual([...new Set(data.map((one) => one.object))], ['model']);
});

onlyGateway('a model is retrieved, also with a slash in its id', async (context) => {
  const ids = (await client.models.list()).data.map((one) => one.id);
  if (!ids.some((id) => id.includes('/'))) context.diagnostic(`none had a slash: ${ids}`);
  for (const id of ids) assert.equal((await client.models.retrieve(id)).id, id);
});

everywhere('chat answers', async () => {
  const answer = await chat();
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.choices[0].finish_reason, 'stop');
  checkUsage(answer.usage);
});

everywhere('a stream says what the plain call says', async () => {
  const plain = await chat();
  const { text, reason, usages } = await readStream(chat({ stream: true }));
  assert.equal(text, plain.choices[0].message.content);
  assert.equal(reason, plain.choices[0].finish_reason);
  assert.deepEqual(usages, []);
});

everywhere('a stream carries usage when asked', async (context) => {
  const plain = (await chat()).usage;
  const asked = { stream: true, stream_options: { include_usage: true } };
  const { usages, chunks } = await readStream(chat(asked));
  if (skips(context, usages.length > 0, 'the model server counts no streams')) return;
  assert.equal(usages.length, 1);
  assert.equal(usages[0], chunks.at(-1), 'the usage chunk is not the last one');
  assert.deepEqual(usages[0].choices, []);
  checkUsage(usages[0].usage, plain.completion_tokens);
  assert.equal(usages[0].usage.prompt_tokens, plain.prompt_tokens);
});

everywhere('a tool is called and its answer taken', async (context) => {
  const asked = (await chat({ messages: WEATHER, tools: [WEATHER_TOOL], max_tokens: 100 })).choices[0];
  if (skips(context, asked.message.tool_calls, 'the model server parses no tool calls')) return;
  assert.equal(asked.finish_reason, 'tool_calls');
  const [call] = asked.message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.equal(JSON.parse(call.function.arguments).city, 'Paris');
  const result = { role: 'tool', tool_call_id: call.id, content: '18 degrees' };
  const messages = [...WEATHER, asked.message, result];
  const told = (await chat({ messages, tools: [WEATHER_TOOL], max_tokens: 100 })).choices[0];
  assert.equal(told.finish_reason, 'stop');
  assert.ok(told.message.content);
});

everywhere('a streamed tool call is the plain one', async (context) => {
  const fields = { messages: WEATHER, tools: [WEATHER_TOOL], max_tokens: 100 };
  const calls = (await chat(fields)).choices[0].message.tool_calls;
  if (skips(context, calls, 'the model server parses no tool calls')) return;
  const plain = calls[0].function;
  const { reason, chunks } = await readStream(chat({ ...fields, stream: true }));
  const pieces = chunks.flatMap((chunk) => chunk.choices).flatMap((one) => one.delta.tool_calls ?? []);
  assert.equal(reason, 'tool_calls');
  assert.equal(pieces.map((piece) => piece.function?.name ?? '').join(''), plain.name);
  const streamed = pieces.map((piece) => piece.function?.arguments ?? '').join('');
  assert.deepEqual(JSON.parse(streamed), JSON.parse(plain.arguments));
});

everywhere('the SDK collects a stream by itself', async () => {
  const runner = client.chat.completions.stream({ model, messages: HELLO, max_tokens: 32, temperature: 0 });
  const whole = await runner.finalChatCompletion();
  assert.equal(whole.choices[0].message.content, (await chat()).choices[0].message.content);
});

everywhere('two choices come at once', async (context) => {
  const fields = { n: 2, temperature: 0.5 };
  let plain;
  try {
    plain = await chat(fields);
  } catch (error) {
    // vLLM's Rust front end takes one choice only, and says so.
    assert.equal(error.constructor.name, 'BadRequestError', `${error}`);
    assert.match(error.message, /n=1/);
    context.diagnostic(error.message);
    return;
  }
  if (skips(context, plain.choices.length > 1, 'the model server makes one choice only')) return;
  assert.deepEqual(plain.choices.map((choice) => choice.index), [0, 1]);
  const ended = new Set();
  let usage;
  for await (const chunk of await chat({ ...fields, stream: true, stream_options: { include_usage: true } })) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) if (choice.finish_reason) ended.add(choice.index);
  }
  assert.deepEqual([...ended].sort(), [0, 1]);
  checkUsage(usage);
});

everywhere('logprobs pass', async (context) => {
  const fields = { logprobs: true, top_logprobs: 2 };
  const plain = (await chat(fields)).choices[0].logprobs?.content;
  if (!plain) {
    context.diagnostic('the model server gives none');
    return;
  }
  assert.equal(plain[0].top_logprobs.length, 2);
  const { chunks } = await readStream(chat({ ...fields, stream: true }));
  const streamed = chunks.flatMap((chunk) => chunk.choices).flatMap((one) => one.logprobs?.content ?? []);
  const isEven = streamed.length !== plain.length - 1;
  if (skips(context, isEven, 'the model server counts the end of a plain answer, too')) return;
  assert.equal(streamed.length, plain.length);
});

everywhere('text completions stream', async () => {
  const fields = { model, prompt: 'Hello', max_tokens: 8, temperature: 0 };
  const plain = await client.completions.create(fields);
  checkUsage(plain.usage);
  let text = '';
  for await (const chunk of await client.completions.create({ ...fields, stream: true })) {
    for (const choice of chunk.choices) text += choice.text;
  }
  assert.equal(text, plain.choices[0].text);
});

everywhere('responses answer where they are served', async (context) => {
  const fields = { model, input: 'Hello there', temperature: 0, max_output_tokens: 32 };
  let plain;
  try {
    plain = await client.responses.create(fields);
  } catch (error) {
    assert.equal(error.constructor.name, 'NotFoundError', `${error}`);
    context.diagnostic('not served here: NotFoundError');
    return;
  }
  assert.equal(plain.status, 'completed');
  const events = [];
  for await (const event of await client.responses.create({ ...fields, stream: true })) events.push(event);
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  assert.equal(deltas.map((event) => event.delta).join(''), plain.output_text);
  assert.equal(events.at(-1).type, 'response.completed');
});

everywhere('embeddings of a generating model are refused', async (context) => {
  const fields = { model, input: 'Hello', encoding_format: 'float' };
  try {
    const answer = await client.embeddings.create(fields);
    assert.ok(answer.data[0].embedding.length > 0, 'neither refused nor answered');
  } catch (error) {
    const fails = error.constructor.name === 'InternalServerError';
    if (skips(context, !fails, 'the model server fails on embeddings')) return;
    assert.ok(['NotFoundError', 'BadRequestError'].includes(error.constructor.name), `${error}`);
  }
});

everywhere('an unknown model is not found', async () => {
  const asked = { model: 'no-such-model' };
  await refused(() => chat(asked), OpenAI.NotFoundError, 404);
  await refused(() => readStream(chat({ ...asked, stream: true })), OpenAI.NotFoundError, 404);
});

everywhere('a wrong type is a bad request', async (context) => {
  const error = await chat({ messages: 'not a list' }).catch((error) => error);
  const fails = error instanceof OpenAI.InternalServerError;
  if (skips(context, !fails, 'the model server fails on a wrong type')) return;
  await refused(() => chat({ messages: 'not a list' }), OpenAI.BadRequestError, 400);
  await refused(() => chat({ max_tokens: 'many' }), OpenAI.BadRequestError, 400);
});

onlyGateway('a wrong key is an authentication error', async () => {
  const wrong = makeClient({}, { apiKey: WRONG_KEY });
  const error = await refused(() => chat({}, wrong), OpenAI.AuthenticationError, 401);
  assert.equal(error.code, 'invalid_api_key');
  hasNoDigits(error);
  await refused(() => readStream(chat({ stream: true }, wrong)), OpenAI.AuthenticationError, 401);
  await refused(() => wrong.models.list(), OpenAI.AuthenticationError, 401);
});

onlyGateway('a missing key is an authentication error', async () => {
  for (const headers of [{ Authorization: null }, { Authorization: null, 'X-API-Key': '' }]) {
    const error = await refused(() => chat({}, makeClient(headers)), OpenAI.AuthenticationError, 401);
    assert.equal(error.code, 'missing_api_key');
    hasNoDigits(error);
  }
});

onlyGateway('the key is taken from either header', async () => {
  for (const headers of [
    { 'X-API-Key': API_KEY, Authorization: null },
    { 'X-API-Key': API_KEY },
    { 'X-API-Key': API_KEY, Authorization: 'Bearer something-of-cloud-run' },
    { 'X-API-Key': '' },
  ]) {
    const by = makeClient(headers);
    assert.ok((await chat({}, by)).choices[0].message.content);
    assert.ok((await readStream(chat({ stream: true }, by))).text);
  }
});

onlyGateway('X-API-Key decides when both come', async () => {
  const by = makeClient({ 'X-API-Key': WRONG_KEY });
  const error = await refused(() => chat({}, by), OpenAI.AuthenticationError, 401);
  assert.equal(error.code, 'invalid_api_key');
});

onlyGateway('too large a body is refused', async () => {
  const messages = [{ role: 'user', content: 'x'.repeat(BODY_LIMIT_BYTES + 1000) }];
  const error = await refused(() => chat({ messages }), OpenAI.APIError, 413);
  assert.equal(error.code, 'body_too_large');
  hasNoDigits(error);
});

onlyGateway('every answer has a request id', async () => {
  const first = await chat();
  const second = await chat();
  assert.ok(first._request_id && second._request_id && first._request_id !== second._request_id);
  const error = await refused(() => chat({ model: 'no-such-model' }), OpenAI.NotFoundError, 404);
  assert.ok(error.requestID && !error.message.includes(error.requestID));
});

onlyGateway('a used-up budget is a rate limit error and asked once', async (context) => {
  if (!LIMITED_KEY) {
    context.skip('no key with a budget was given');
    return;
  }
  let asked = 0;
  const counting = (...request) => {
    asked += 1;
    return fetch(...request);
  };
  // The SDK's own retries: it must not use them.
  const by = makeClient({}, { apiKey: LIMITED_KEY, maxRetries: 2, fetch: counting });
  const messages = [{ role: 'user', content: 'Tell me a story [[tokens=400]]' }];
  const story = { messages, max_tokens: 400 };
  for (let calls = 0, left = true; left; calls += 1) {
    assert.ok(calls < 100, 'the budget is never used up');
    left = await chat(story, by).then(
      () => true,
      (error) => {
        assert.equal(error.constructor.name, 'RateLimitError', `${error}`);
        return false;
      },
    );
  }
  for (const stream of [false, true]) {
    asked = 0;
    const began = Date.now();
    const error = await refused(() => chat({ ...story, stream }, by), OpenAI.RateLimitError, 429);
    assert.deepEqual([error.code, error.type], ['token_limit_exceeded', 'insufficient_quota']);
    assert.equal(asked, 1, 'requests');
    assert.ok(Date.now() - began < 3000, 'it took seconds');
    assert.match(error.message, /token limit/);
    hasNoDigits(error);
  }
});

everywhere('a stream can be left in the middle', async () => {
  await workEndsEarly(async () => {
    let seen = 0;
    for await (const chunk of await chat({ ...LONG, stream: true })) {
      assert.ok(chunk.id);
      seen += 1;
      if (seen > 20) break;
    }
  });
  assert.ok((await chat()).choices[0].message.content);
});

everywhere('a stream can be aborted', async () => {
  await workEndsEarly(async () => {
    const controller = new AbortController();
    const stream = await chat({ ...LONG, stream: true }, client, { signal: controller.signal });
    let seen = 0;
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      seen += 1;
      if (seen === 20) controller.abort();
    }
    assert.ok(seen < LONG_TOKENS / 2, 'the stream went on');
  });
});

everywhere('a plain call can be given up', async (context) => {
  const hasty = makeClient({}, { timeout: 700 });
  let isOver = false;
  const givenUp = workEndsEarly(async () => {
    const end = await chat(LONG, hasty).catch((error) => error);
    isOver = !(end instanceof Error);
    assert.ok(isOver || end instanceof OpenAI.APIConnectionTimeoutError, `${end}`);
  });
  const goesOn = await givenUp.then(
    () => false,
    (error) => {
      if (isVllm || !error.message.startsWith(GOES_ON)) throw error;
      return true;
    },
  );
  if (skips(context, !isOver, 'the model server knows no ignore_eos')) return;
  assert.ok(!isOver, 'the call was over before its timeout');
  if (skips(context, !goesOn, 'the model server finishes a plain call that was given up')) return;
  assert.ok((await chat()).choices[0].message.content);
});
