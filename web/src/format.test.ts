import { expect, it } from 'vitest'
import { age, bytes, revision, shortened, span, took } from './format'

const now = Date.parse('2026-03-01T12:00:00Z')

it.each([
  [0, '0s'],
  [119, '119s'],
  [120, '2m'],
  [7199, '119m'],
  [7200, '2h'],
  [48 * 3600, '2d'],
])('span of %d seconds', (s, want) => expect(span(s)).toBe(want))

it.each([
  ['2026-03-01T11:59:00Z', '60s'],
  ['0001-01-01T00:00:00Z', ''],
  [undefined, ''],
  ['nonsense', ''],
  ['2026-03-01T13:00:00Z', '0s'],
])('age of %s', (time, want) => expect(age(time, now)).toBe(want))

it.each([
  ['2026-03-01T11:59:30Z', '2026-03-01T11:59:40Z', '10s'],
  ['2026-03-01T11:00:00Z', undefined, '1h 00m'],
  ['2026-03-01T11:00:00Z', '2026-03-01T11:01:05Z', '1m 05s'],
  [undefined, undefined, ''],
])('took from %s to %s', (from, to, want) => expect(took(from, to, now)).toBe(want))

it.each([
  ['main@sha1:8fddee68beaa59e72376cdd56a2314ba7741d5c1', 'main', '8fddee6'],
  ['feature/a@b@sha1:8fddee68beaa59e72376cdd56a2314ba7741d5c1', 'feature/a@b', '8fddee6'],
  ['sha1:8fddee68beaa59e72376cdd56a2314ba7741d5c1', '', '8fddee6'],
  ['8fddee68beaa59e72376cdd56a2314ba7741d5c1', '', '8fddee6'],
  ['1.2.3', '1.2.3', ''],
  ['', '', ''],
])('revision %s', (text, ref, short) => expect(revision(text)).toMatchObject({ ref, short }))

it.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [100 * 1024 * 1024, '100 MiB'],
])('%d bytes', (n, want) => expect(bytes(n)).toBe(want))

it.each([
  ['Applied revision: main@sha1:8fddee68beaa59e72376cdd56a2314ba7741d5c1', 'Applied revision: main@sha1:8fddee6'],
  ['8fddee68beaa59e72376cdd56a2314ba7741d5c1..8fddee68beaa59e72376cdd56a2314ba7741d5c1', '8fddee6..8fddee6'],
  ['deadbeef stays', 'deadbeef stays'],
])('shortened %s', (text, want) => expect(shortened(text)).toBe(want))
