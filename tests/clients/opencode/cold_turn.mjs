// One agent turn of OpenCode at a model server that is still starting: it waits and succeeds.
//
//     BASE_URL=http://127.0.0.1:8000/v1 API_KEY=... MODEL=ID node cold_turn.mjs
//
// The model behind the gateway is the project's model server, which plays the agent's turn.

import { readEvents, runOpencode } from './opencode.mjs';

const { BASE_URL, API_KEY, MODEL } = process.env;
const options = { baseURL: BASE_URL, apiKey: API_KEY };
const models = { [MODEL]: { limit: { context: 32768, output: 1024 } } };
const result = await runOpencode({
  config: { provider: { gateway: { npm: '@ai-sdk/openai-compatible', options, models } } },
  model: `gateway/${MODEL}`,
  prompt: 'Write a note and read it back.',
  timeoutMs: 300_000,
});
await result.remove();
const { tools, text, errors } = readEvents(result.stdout);
const used = tools.map((tool) => tool.tool).join(', ');
console.log(`exit ${result.code}, ${errors.length} errors, tools: ${used}, last words: ${JSON.stringify(text)}`);
const succeeded = result.code === 0 && !result.timedOut && errors.length === 0 && tools.length >= 3;
if (!succeeded) console.error(result.stderr);
process.exitCode = succeeded ? 0 : 1;
