// Apps as pages of a list.
import { useInfiniteQuery } from '@tanstack/react-query'
import { get, missing, query, type App } from './api'
import { matches, type AppFilter } from './filter'

export interface AppList {
  apps: App[]
  total: number
  counts: Record<string, number>
  next?: string
}

const pageSize = 500
let plain = false // the server knows the whole list only

export async function fetchApps(f: AppFilter & { sort?: string }, after: string, signal?: AbortSignal): Promise<AppList> {
  if (!plain) {
    try {
      return await get<AppList>(query('/api/v1/apps', { ...f, after, limit: pageSize }), signal)
    } catch (err) {
      if (!missing(err)) throw err
      plain = true
    }
  }
  const { apps } = await get<{ apps: App[] }>('/api/apps', signal)
  return listOf(apps, f)
}

/** What the server would answer, of all apps. */
export function listOf(all: App[], f: AppFilter): AppList {
  const counts: Record<string, number> = {}
  for (const a of all) {
    a.id ??= `${a.kind}/${a.namespace}/${a.name}`
    if (matches(a, { ...f, state: '' })) counts[a.state] = (counts[a.state] ?? 0) + 1
  }
  const apps = all.filter((a) => matches(a, f))
  return { apps, total: apps.length, counts }
}

export function useApps(f: AppFilter & { sort?: string }) {
  return useInfiniteQuery({
    queryKey: ['apps', f],
    queryFn: ({ pageParam, signal }) => fetchApps(f, pageParam, signal),
    initialPageParam: '',
    getNextPageParam: (last) => last.next || undefined,
    placeholderData: (before) => before,
    refetchInterval: () => (plain ? 3000 : 60_000),
  })
}
