// What the tests share: clients of the gateways that the surrounding test has started, and how to look behind the API.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

export const QUESTION = [{ role: 'user', content: 'What is Sluicegate?' }];
const PATIENCE_MS = 20_000;

export const url = (gateway, path) => process.env[`${gateway.toUpperCase()}_URL`] + path;

/** A client of the gateway; the key is whatever a program happens to have. */
export const client = (gateway, options = {}) =>
  new OpenAI({ baseURL: url(gateway, '/v1'), apiKey: 'any', maxRetries: 0, ...options });

/** A task as the native API shows it. */
export const task = async (gateway, id) => (await fetch(url(gateway, `/v2/tasks/${id}`))).json();

export async function slotsActive(gateway) {
  const text = await (await fetch(url(gateway, '/metrics'))).text();
  const lines = text.split('\n').filter((line) => line.startsWith('slots_active{'));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

/** Looks until it is so, or fails after a while. */
export async function eventually(what, isSo) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await isSo())) {
    assert.ok(Date.now() < deadline, `waited too long until ${what}`);
    await sleep(10);
  }
}

export async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** The text of the first choice of a stream. */
export const textOf = (chunks) =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === 0)
    .map((choice) => choice.delta.content ?? '')
    .join('');
