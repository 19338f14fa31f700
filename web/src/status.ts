// What a word of the API looks like: a tone, and a shape that is told apart without colours.
import type { AppDetail } from './api'

export type Tone = 'ok' | 'run' | 'wait' | 'warn' | 'bad' | 'idle'
export type Shape = 'check' | 'ring' | 'clock' | 'play' | 'warn' | 'cross' | 'pause' | 'slash' | 'skip' | 'ask' | 'dot' | 'diff'

const looks: Record<string, [Tone, Shape]> = {
  // apps
  ready: ['ok', 'check'],
  working: ['run', 'ring'],
  failing: ['bad', 'cross'],
  suspended: ['idle', 'pause'],
  outofsync: ['warn', 'diff'],
  unknown: ['idle', 'ask'],
  // health, and Argo CD's words
  healthy: ['ok', 'check'],
  progressing: ['run', 'ring'],
  degraded: ['bad', 'cross'],
  missing: ['warn', 'ask'],
  synced: ['ok', 'check'],
  insync: ['ok', 'check'],
  drifted: ['warn', 'diff'],
  // pipelines, jobs and deployments, in GitLab's words
  created: ['idle', 'dot'],
  preparing: ['wait', 'clock'],
  pending: ['wait', 'clock'],
  waiting_for_resource: ['wait', 'clock'],
  waiting_for_callback: ['wait', 'clock'],
  scheduled: ['wait', 'clock'],
  running: ['run', 'ring'],
  success: ['ok', 'check'],
  succeeded: ['ok', 'check'],
  failed: ['bad', 'cross'],
  canceling: ['idle', 'slash'],
  canceled: ['idle', 'slash'],
  skipped: ['idle', 'skip'],
  superseded: ['idle', 'skip'],
  manual: ['wait', 'play'],
  blocked: ['wait', 'play'],
  // environments
  available: ['ok', 'check'],
  stopping: ['run', 'ring'],
  stopped: ['idle', 'pause'],
  // audit
  allowed: ['ok', 'check'],
  ok: ['ok', 'check'],
  done: ['ok', 'check'],
  asked: ['wait', 'clock'],
  denied: ['bad', 'cross'],
  refused: ['bad', 'cross'],
  error: ['bad', 'cross'],
}

export function look(status: string | undefined): { tone: Tone; shape: Shape } {
  const l = looks[(status ?? '').toLowerCase()] ?? ['idle', 'ask']
  return { tone: l[0], shape: l[1] }
}

/** A job's look: a failure that is allowed is a warning. */
export function jobLook(status: string, allowed?: boolean): { tone: Tone; shape: Shape } {
  return status === 'failed' && allowed ? { tone: 'warn', shape: 'warn' } : look(status)
}

/** waiting_for_resource -> waiting for resource; OutOfSync -> out of sync */
export function words(status: string): string {
  return status
    .replaceAll('_', ' ')
    .replace(/([a-z])([A-Z])/g, '$1 $2')
    .toLowerCase()
}

const active = new Set(['created', 'preparing', 'pending', 'waiting_for_resource', 'waiting_for_callback', 'running', 'canceling', 'scheduled'])

/** Whether a job or pipeline may change by itself. */
export function isActive(status: string): boolean {
  return active.has(status)
}

// heldBack tells whether an app is left as it is until somebody resumes it: it was suspended, or a rollback holds it.
export const heldBack = (app: AppDetail): boolean => Boolean(app.spec?.suspended || app.holds?.some((h) => !h.object) || (!app.spec && app.state === 'Suspended'))

/** Tells whether a hold of an app says already what its message or one of its warnings says. */
export function heldAnyway(text: string | undefined, holds: { reason?: string }[] | undefined): boolean {
  return !!text && !!holds?.some((h) => h.reason && (text === h.reason || text.startsWith(`automation is on hold: ${h.reason}`)))
}
