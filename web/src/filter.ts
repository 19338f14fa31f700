// Filters and groups of apps.
import type { App } from './api'

export interface AppFilter {
  q?: string
  state?: string
  kind?: string
  namespace?: string
  environment?: string
}

export type Row = { group: string; count: number } | { app: App }

/** Rows of a list: without groups the apps, else each group's head before its apps. Groups are sorted, the one without a name last. */
export function rows(apps: App[], by: '' | 'environment' | 'namespace' | 'kind' | 'state'): Row[] {
  if (by === '') return apps.map((app) => ({ app }))
  const groups = new Map<string, App[]>()
  for (const a of apps) {
    const g = a[by] ?? ''
    const list = groups.get(g)
    if (list) list.push(a)
    else groups.set(g, [a])
  }
  const names = [...groups.keys()].sort((a, b) => (a === '' ? 1 : b === '' ? -1 : a.localeCompare(b)))
  return names.flatMap((group) => [{ group, count: groups.get(group)!.length }, ...groups.get(group)!.map((app) => ({ app }))])
}

/** The states in the order in which people want to see them. */
export const states = ['Failing', 'OutOfSync', 'Working', 'Unknown', 'Suspended', 'Ready']
