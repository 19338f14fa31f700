import { expect, it } from 'vitest'
import type { AppDetail } from './api'
import { heldAnyway, heldBack } from './status'

const app = (more: Partial<AppDetail>) => ({ state: 'Ready', ...more }) as AppDetail

it.each([
  ['one that is well', app({ spec: { suspended: false }, holds: [] }), false],
  ['one that is suspended', app({ state: 'Suspended', spec: { suspended: true } }), true],
  ['a HelmRelease that a rollback holds', app({ state: 'Failing', spec: { suspended: false }, holds: [{ reason: 'Rollback to 1', until: 'Git wants something else, or it is resumed' }] }), true],
  ['one of which an object is held', app({ spec: { suspended: false }, holds: [{ object: 'Deployment/shop/web' }] }), false],
  ['what is not known yet but from the list', app({ state: 'Suspended' }), true],
])('%s is held back: %#', (_, a, want) => expect(heldBack(a)).toBe(want))

it.each([
  ['the message of a HelmRelease', 'web.v3 was made by a person', [{ reason: 'web.v3 was made by a person' }], true],
  ['the warning of an Application', 'automation is on hold: rolled back to abc (hint: keelson resume)', [{ reason: 'rolled back to abc' }], true],
  ['another warning', 'the field x is not supported', [{ reason: 'rolled back to abc' }], false],
  ['another failure', 'the source is suspended', [{ reason: 'suspended' }], false],
  ['no hold', 'failed', [], false],
  ['nothing', undefined, [{ reason: '' }], false],
])('a hold says %s: %#', (_, text, holds, want) => expect(heldAnyway(text, holds)).toBe(want))
