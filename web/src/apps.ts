// Apps as pages of a list.
import { infiniteQueryOptions, useInfiniteQuery } from '@tanstack/react-query'
import { get, query, type App } from './api'
import type { AppFilter } from './filter'

export interface AppList {
  apps: App[]
  total: number
  counts: Record<string, number>
  next?: string
}

export type Group = '' | 'environment' | 'namespace' | 'kind' | 'state'

export type SortedFilter = AppFilter & { sort?: string }

/** The filter and the groups of the list of apps that an address asks for. */
export function filterOf(search: string): SortedFilter {
  const q = new URLSearchParams(search)
  const value = (name: string) => q.get(name) ?? ''
  return { q: value('q'), state: value('state'), namespace: value('namespace'), environment: value('environment'), kind: value('kind'), sort: groupOf(search) || undefined }
}

export function groupOf(search: string): Group {
  const by = new URLSearchParams(search).get('group') ?? ''
  return (['environment', 'namespace', 'kind', 'state'].includes(by) ? by : '') as Group
}

const pageSize = 500

/** How many apps come first: what is seen at once and a little more. The heads of groups count, so they want as many as they can have. */
export const firstPage = (f: SortedFilter) => (f.sort ? pageSize : 100)

export const appsQuery = (f: SortedFilter, first = pageSize) =>
  infiniteQueryOptions({
    queryKey: ['apps', f],
    queryFn: ({ pageParam, signal }) => get<AppList>(query('/api/v1/apps', { ...f, after: pageParam, limit: pageParam === '' ? first : pageSize }), signal),
    initialPageParam: '',
    getNextPageParam: (last: AppList) => last.next || undefined,
  })

export function useApps(f: SortedFilter, first?: number) {
  return useInfiniteQuery({ ...appsQuery(f, first), placeholderData: (before) => before, refetchInterval: 60_000 })
}
