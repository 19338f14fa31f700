// What can be said of jobs from what the API tells.
import type { Job, TestReport } from './api'

/** The last attempt of each job, in the order in which the jobs come. */
export function latest(jobs: Job[]): Job[] {
  const last = new Map<string, Job>()
  for (const j of jobs) {
    const before = last.get(j.name)
    if (!before || j.attempt > before.attempt) last.set(j.name, j)
  }
  return [...last.values()]
}

const order = ['running', 'failed', 'canceling', 'pending', 'preparing', 'waiting_for_resource', 'scheduled', 'manual', 'created', 'canceled', 'success', 'skipped']

/** The one word for the jobs of a stage: the first of these that one of them is in. A failure that is allowed does not count. */
export function stageStatus(jobs: { status: string; allowedToFail?: boolean }[]): string {
  const have = new Set(jobs.map((j) => (j.status === 'failed' && j.allowedToFail ? 'success' : j.status)))
  return order.find((s) => have.has(s)) ?? 'created'
}

/** The test report that a job has left. */
export function reportOf(job: Job | undefined): TestReport | undefined {
  if (!job?.tests) return undefined
  try {
    const bytes = Uint8Array.from(atob(job.tests), (c) => c.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes)) as TestReport
  } catch {
    return undefined
  }
}
