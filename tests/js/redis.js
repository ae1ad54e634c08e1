// What the tests of a node and its Redis share.

import {startRedis} from './support.js';

export const inMemory = (t, ...options) => startRedis(t, '--save', '', ...options);

/** Asks a node, and reads the answer. */
export const asking = (node) => async (target, options) => {
  const answer = await fetch(`${node.http}${target}`, options);
  const {status, headers} = answer;
  return {
    status, text: await answer.text(), from: headers.get('pragma'),
    number: Number(headers.get('x-message-seq')),
  };
};

export const post = (body) => ({method: 'POST', body});

/** What the script in Redis answers a node, its words one after the other. */
export async function script(redis, node, verb, ...args) {
  const [name] = (await redis.cli('function', 'list')).match(/signal_[0-9a-f]+$/m);
  const answer = await redis.cli('fcall', name, '1', '{signal}:', verb, node, '', ...args);
  return answer.split('\n').filter((word) => word !== '');
}

/** The verbs of a wait, as a node has them carried out. */
export function waits(redis, id) {
  return {
    wait: (node, number, {began = Date.now(), ack = ''} = {}) => script(
      redis, node, 'wait', String(began), `${node}.${number}`, id, '', '', ack, '0', '', '', ''),
    take: (node, number, began, ack = '') => script(
      redis, node, 'take', String(began), id, `${node}.${number}`, ack, '0', ''),
    done: (node, number, message) => script(
      redis, node, 'done', id, `${node}.${number}`, 'message', String(message), '1', '1'),
    end: (node, number) => script(redis, node, 'end_wait', id, `${node}.${number}`, '1', ''),
  };
}
