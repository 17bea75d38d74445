// Runs OpenCode headless in a home of its own, so that nothing of this machine's
// user is read and nothing but the configured base URL is contacted.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// The model catalogue, updates, language servers, plugins: all of them would call out.
const SWITCHES = {
  OPENCODE_DISABLE_MODELS_FETCH: '1',
  OPENCODE_DISABLE_AUTOUPDATE: '1',
  OPENCODE_DISABLE_LSP_DOWNLOAD: '1',
  OPENCODE_DISABLE_DEFAULT_PLUGINS: '1',
  OPENCODE_PURE: '1',
  npm_config_offline: 'true',
};

// Merged over the user's own configuration, which stays as it is.
const BEHAVIOUR = JSON.stringify({
  autoupdate: false,
  share: 'disabled',
  permission: { edit: 'allow', bash: 'allow' },
});

/** The binary in the platform's package beside this file; undefined where there is none. */
export function findBinary() {
  if (process.env.OPENCODE_BIN) return process.env.OPENCODE_BIN;
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const base = join(import.meta.dirname, 'node_modules', `opencode-${platform}-${process.arch}`);
  const name = platform === 'windows' ? 'opencode.exe' : 'opencode';
  return ['', '-baseline', '-musl', '-baseline-musl']
    .map((suffix) => join(`${base}${suffix}`, 'bin', name))
    .find((path) => existsSync(path));
}

/**
 * One `opencode run` in a fresh project folder, or another command, whose words are `args`.
 * Without `model` the configuration says which.
 *
 * `config` is the user's opencode.json, put into the project as it is; `auth` is what
 * `/connect` would have stored.  The answer holds the exit code, the events of
 * `--format json`, stderr, `outside` (addresses that OpenCode wanted besides loopback),
 * and `project`, which is there until `remove()`.  A run that takes longer than
 * `timeoutMs` is killed with its children and has `timedOut` set.
 */
export async function runOpencode({ config, auth, env = {}, model, prompt, args, timeoutMs = 60_000 }) {
  const root = await mkdtemp(join(tmpdir(), 'tollgate-opencode-'));
  const folder = (...names) => join(root, ...names);
  for (const name of ['project', 'home', 'tmp', 'data/opencode']) {
    await mkdir(folder(name), { recursive: true });
  }
  await writeFile(folder('project', 'opencode.json'), JSON.stringify(config));
  if (auth) {
    await writeFile(folder('data', 'opencode', 'auth.json'), JSON.stringify(auth), { mode: 0o600 });
  }
  const trap = await startTrap();
  args ??= ['run', '--format', 'json', ...(model ? ['--model', model] : []), prompt];
  const ended = await spawnBounded(args, timeoutMs, {
    cwd: folder('project'),
    env: {
      PATH: process.env.PATH,
      HOME: folder('home'),
      TMPDIR: folder('tmp'),
      XDG_DATA_HOME: folder('data'),
      XDG_CONFIG_HOME: folder('config'),
      XDG_CACHE_HOME: folder('cache'),
      XDG_STATE_HOME: folder('state'),
      OPENCODE_CONFIG_CONTENT: BEHAVIOUR,
      HTTP_PROXY: trap.url,
      HTTPS_PROXY: trap.url,
      NO_PROXY: '127.0.0.1,localhost,::1',
      ...SWITCHES,
      ...env,
    },
  });
  await trap.close();
  return {
    ...ended,
    outside: trap.wanted,
    project: folder('project'),
    remove: () => rm(root, { recursive: true, force: true }),
  };
}

/** What the events of a run tell: the tools in their order, the steps, the last text. */
export function readEvents(stdout) {
  const events = stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const parts = (type) => events.filter((event) => event.type === type).map((event) => event.part);
  return {
    tools: parts('tool_use'),
    steps: parts('step_finish'),
    text: parts('text').at(-1)?.text ?? '',
    errors: events.filter((event) => event.type === 'error').map((event) => event.error),
  };
}

async function spawnBounded(args, timeoutMs, options) {
  const child = spawn(findBinary(), args, { ...options, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  const result = { stdout: '', stderr: '', timedOut: false };
  child.stdout.setEncoding('utf8').on('data', (text) => (result.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (result.stderr += text));
  const timer = setTimeout(() => {
    result.timedOut = true;
    killGroup(child.pid);
  }, timeoutMs);
  result.code = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  clearTimeout(timer);
  return result;
}

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

/** A proxy that lets nothing through, but remembers the first line of each request. */
async function startTrap() {
  const wanted = [];
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', (bytes) => {
      wanted.push(bytes.toString('latin1').split('\r\n', 1)[0]);
      socket.end('HTTP/1.1 502 No way out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    wanted,
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}
