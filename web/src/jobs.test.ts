import { expect, it } from 'vitest'
import type { Job } from './api'
import { latest, reportOf, stageStatus } from './jobs'

const job = (name: string, attempt: number, status = 'success'): Job => ({ id: attempt, pipeline: 1, name, stage: 's', attempt, status })

it('the last attempt of each job counts, at the place of the first', () =>
  expect(latest([job('a', 1, 'failed'), job('b', 1), job('a', 2)]).map((j) => `${j.name} ${j.attempt}`)).toEqual(['a 2', 'b 1']))

it.each([
  ['running', ['success', 'running', 'failed']],
  ['failed', ['success', 'failed', 'manual']],
  ['manual', ['success', 'manual', 'skipped']],
  ['success', ['success', 'skipped']],
])('a stage is %s', (want, statuses) => expect(stageStatus(statuses.map((status) => ({ status })))).toBe(want))

it('a failure that is allowed is no failure of the stage', () => expect(stageStatus([{ status: 'failed', allowedToFail: true }])).toBe('success'))

it('a report is base64 of JSON', () => expect(reportOf({ ...job('a', 1), tests: btoa(JSON.stringify({ total: 3 })) })).toEqual({ total: 3 }))
it('what is no report is none', () => expect(reportOf({ ...job('a', 1), tests: '%' })).toBeUndefined())
