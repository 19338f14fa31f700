// The one stream of changes that a page has open, and what they make stale.
import type { QueryClient } from '@tanstack/react-query'
import { useSyncExternalStore } from 'react'
import { APIError } from './api'
import { SSEParser, listen } from './sse'

export type LiveState = 'wait' | 'on' | 'off'

/** A change that the stream tells of. */
export interface Change {
  kind: string
  id: number | string
  pipeline?: number
  project?: number
  status?: string
  state?: string
}

/** The queries that a change makes stale, by the beginnings of their keys. */
export function stale(name: string, c: Change): unknown[][] {
  switch (name) {
    case 'pipeline':
      return [['pipelines'], ['pipeline', Number(c.id)]]
    case 'job':
      return [['pipeline', c.pipeline], ['job', Number(c.id)], ['artifacts', c.pipeline]]
    case 'environment':
      return [['environments'], ['environment', Number(c.id)], ['matrix']]
    case 'deployment':
      return [['environments'], ['environment'], ['matrix'], ['deliveries']]
    case 'app':
      return [['apps'], ['app', String(c.id)], ['matrix']]
    case 'delivery':
      return [['deliveries'], ['matrix'], ['repairs'], ['why']]
    case 'repair':
      return [['repairs'], ['why']]
    default:
      return []
  }
}

let state: LiveState = 'wait'
const watchers = new Set<() => void>()

function set(next: LiveState) {
  if (next === state) return
  state = next
  for (const w of watchers) w()
}

export function useLiveState(): LiveState {
  return useSyncExternalStore(
    (f) => (watchers.add(f), () => void watchers.delete(f)),
    () => state,
  )
}

/** Follows the server's changes until it is told to stop, over lost connections. */
export function follow(client: QueryClient): () => void {
  const stop = new AbortController()
  const waiting = new Map<string, unknown[]>()
  let timer: ReturnType<typeof setTimeout> | undefined
  const flush = () => {
    timer = undefined
    const keys = [...waiting.values()]
    waiting.clear()
    for (const queryKey of keys) void client.invalidateQueries({ queryKey })
  }
  const touch = (keys: unknown[][]) => {
    for (const k of keys) waiting.set(JSON.stringify(k), k)
    timer ??= setTimeout(flush, 300)
  }
  void stay(stop.signal, (name, c) => {
    if (name === 'reset' || name === 'reconnected') void client.invalidateQueries()
    else touch(stale(name, c))
  })
  return () => {
    stop.abort()
    clearTimeout(timer)
  }
}

async function stay(signal: AbortSignal, tell: (name: string, c: Change) => void) {
  let last = ''
  let pause = 1000
  while (!signal.aborted) {
    const parser = new SSEParser(last)
    const opened = () => {
      set('on')
      pause = 1000
    }
    try {
      for await (const e of listen('/api/v1/events', parser, signal, opened)) tell(e.name, JSON.parse(e.data) as Change)
    } catch (err) {
      if (signal.aborted) return
      if (err instanceof APIError && (err.status === 404 || err.status === 401)) pause = 30_000
      if (err instanceof APIError && err.status === 400) parser.id = ''
      set('off')
    }
    last = parser.id
    await new Promise((r) => setTimeout(r, pause + Math.random() * 300))
    pause = Math.min(pause * 2, 30_000)
    if (last === '') tell('reconnected', { kind: '', id: 0 })
  }
}
