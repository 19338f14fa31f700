// Apps as pages of a list.
import { useInfiniteQuery } from '@tanstack/react-query'
import { get, query, type App } from './api'
import type { AppFilter } from './filter'

export interface AppList {
  apps: App[]
  total: number
  counts: Record<string, number>
  next?: string
}

const pageSize = 500

export function useApps(f: AppFilter & { sort?: string }) {
  return useInfiniteQuery({
    queryKey: ['apps', f],
    queryFn: ({ pageParam, signal }) => get<AppList>(query('/api/v1/apps', { ...f, after: pageParam, limit: pageSize }), signal),
    initialPageParam: '',
    getNextPageParam: (last) => last.next || undefined,
    placeholderData: (before) => before,
    refetchInterval: 60_000,
  })
}
