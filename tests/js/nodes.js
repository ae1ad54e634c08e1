// Nodes on one Redis, and ways in which they and their wire to it fail.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';

import {BINARY, atEnd, cuttableWire, pause, startNode, startRedis} from './support.js';

/** A directory of its own for a test. */
export function directory(t, name) {
  const dir = mkdtempSync(path.join(tmpdir(), `${name}-`));
  atEnd(t, () => rmSync(dir, {recursive: true, force: true}));
  return dir;
}

/** A Redis that persists, as one does whose messages must not be lost. */
export async function persistentRedis(t) {
  const dir = directory(t, 'redis');
  const redis = await startRedis(t, '--appendonly', 'yes', '--save', '', '--dir', dir);
  return Object.assign(redis, {dir});
}

/** Nodes that can be killed, stopped and started. */
export async function startNodes(t, url, count = 2, settings = {}) {
  // Waits that end soon, so that a test does.
  const shared = {WEBRTC_REDIS_URL: url, WEBRTC_WAIT_MS: '1000', ...settings};
  const nodes = await Promise.all(Array.from({length: count}, () => startNode(t, shared)));
  return {
    all: nodes,
    /** Asks one of the nodes, at random. */
    ask: (target, options) => {
      const node = nodes[Math.floor(Math.random() * nodes.length)];
      return fetch(`${node.http}${target}`, options);
    },
    end: async (index, signal) => {
      const [node] = nodes.splice(index, 1);
      const exited = once(node.process, 'exit');
      node.process.kill(signal);
      await exited;
    },
    start: async () => nodes.push(await startNode(t, shared)),
  };
}

/** Starts a server that ends by itself: its exit status, and what it says. */
export async function startInVain(settings) {
  const node = spawn(BINARY, {
    env: {PORT: '0', HOST: '127.0.0.1', ...settings}, stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  node.stderr.on('data', (data) => { text += data; });
  const [status] = await once(node, 'close');
  const [, line] = /^signal-http-heartbeat: ([^\n]*)\n$/.exec(text) ?? assert.fail(text);
  return [status, line];
}

/** The nodes, as a client of this room asks them. */
export function inRoom(nodes, name) {
  return {...nodes, ask: (target, options) => nodes.ask(`/rooms/${name}${target}`, options)};
}

/** Asks until there is an answer, of whichever node. */
export async function insist(nodes, target, options) {
  for (;;) {
    try {
      const answer = await nodes.ask(target, options);
      const text = await answer.text();
      if (answer.status !== 503) return {status: answer.status, headers: answer.headers, text};
    } catch {
      // Cut off: another node is asked.
    }
    await pause(20);
  }
}

export async function signIn(nodes, name) {
  const {headers} = await insist(nodes, `/sign_in?peer_name=${name}`);
  return headers.get('pragma');
}

/** A wire to Redis that can be cut, and be away for a while. */
export async function startWire(t, port) {
  const wire = await cuttableWire(t, {port});
  return {...wire, url: `redis://127.0.0.1:${wire.port}/`};
}

/** What makes a program's clock be ahead (`+60s`) or behind (`-5h`). */
export function inAnotherTime(offset) {
  const lib = ['x86_64', 'aarch64'].map((cpu) => `/usr/lib/${cpu}-linux-gnu/faketime/libfaketime.so.1`);
  return {LD_PRELOAD: lib.join(':'), FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: '1'};
}

