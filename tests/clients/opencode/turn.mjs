// One whole agent turn: write, bash, read, and a last text that tells what was read.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { readEvents, runOpencode } from './opencode.mjs';

export const PROMPT = process.env.PROMPT ?? 'Write a note about the tide, count its bytes, and read it back.';
const TIMEOUT_MS = Number(process.env.TURN_TIMEOUT_MS ?? 60_000);

/** Runs one turn and compares every step of it with what the model asked for. */
export async function checkTurn(run) {
  const result = await runOpencode({ prompt: PROMPT, timeoutMs: TIMEOUT_MS, ...run });
  try {
    const { tools, steps, text } = readEvents(result.stdout);
    const shown = `${result.stdout}\n${result.stderr}`;
    assert.ok(!result.timedOut, `the turn did not end:\n${shown}`);
    assert.equal(result.code, 0, shown);
    assert.deepEqual(tools.map((part) => part.tool), ['write', 'bash', 'read'], shown);
    for (const { tool, state } of tools) assert.equal(state.status, 'completed', `${tool}:\n${shown}`);
    const [wrote, , read] = tools.map((part) => part.state);
    const { filePath, content } = wrote.input;
    const path = isAbsolute(filePath) ? filePath : join(result.project, filePath);
    assert.equal(await readFile(path, 'utf8'), content);
    assert.ok(content.trim() && read.output.includes(content.trim()), read.output);
    assert.ok(text.includes(content.trim()), `the last text does not tell what was read: ${text}`);
    assert.deepEqual(steps.map((part) => part.reason), ['tool-calls', 'tool-calls', 'tool-calls', 'stop']);
    for (const { tokens } of steps) {
      const asked = tokens.input + tokens.cache.read + tokens.cache.write;
      assert.ok(asked > 0 && tokens.output > 0, `no usage: ${JSON.stringify(tokens)}`);
    }
    assert.deepEqual(result.outside, [], 'OpenCode wanted to leave this machine');
  } finally {
    await result.remove();
  }
}
