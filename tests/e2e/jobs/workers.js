// Worker threads with a SharedArrayBuffer, a forked process with messages, a piped child.
// Usage: workers.js ROUNDS
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { fork, spawn } = require('child_process');
const crypto = require('crypto');

function mix(x, n) {
  for (let i = 0; i < n; i++) x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff;
  return x;
}

function worker() {
  const shared = new Int32Array(workerData.buffer);
  parentPort.on('message', ({ round, n }) => {
    for (let i = 0; i < 1000; i++) Atomics.add(shared, n, 1);
    parentPort.postMessage({ round, n, x: mix(round * 10 + n, 400000) });
  });
}

function forked() {
  process.on('message', (m) => process.send({ ...m, x: mix(m.round, 300000) }));
}

function once(emitter, event, send) {
  return new Promise((resolve) => { emitter.once(event, resolve); send(); });
}

function piped(round) {
  return new Promise((resolve) => {
    const child = spawn('sort', ['-n'], { stdio: ['pipe', 'pipe', 'inherit'] });
    const hash = crypto.createHash('md5');
    child.stdout.on('data', (data) => hash.update(data));
    child.on('close', (code) => resolve(`${code} ${hash.digest('hex')}`));
    for (let i = 0; i < 2000; i++) child.stdin.write(`${mix(round + i, 10)}\n`);
    child.stdin.end();
  });
}

async function main(rounds) {
  const buffer = new SharedArrayBuffer(64);
  const workers = [0, 1, 2].map(() => new Worker(__filename, { workerData: { buffer } }));
  const helper = fork(__filename, ['forked']);
  for (let round = 0; round < rounds; round++) {
    const answers = workers.map((w, n) => once(w, 'message', () => w.postMessage({ round, n })));
    const other = once(helper, 'message', () => helper.send({ round }));
    const x = (await Promise.all(answers)).map((m) => m.x);
    console.log(round, x.join(' '), (await other).x, await piped(round),
      new Int32Array(buffer).slice(0, 3).join(' '));
  }
  helper.disconnect();
  await Promise.all(workers.map((w) => w.terminate()));
}

if (!isMainThread) worker();
else if (process.argv[2] === 'forked') forked();
else main(Number(process.argv[2]));
