// Lists that come in pages, the newest first.
import { useInfiniteQuery } from '@tanstack/react-query'
import { get, query } from './api'

type Next = number | string
type Page = Record<string, unknown> & { next?: Next }

/** What a path of the API lists below a name, as far as it was asked for; older ones come with Older. */
export function usePages<T>(key: string, path: string, name: string, filter: Record<string, string | number | undefined>, size: number, refetchInterval?: number) {
  const list = useInfiniteQuery({
    queryKey: [key, filter],
    queryFn: ({ pageParam, signal }) => get<Page>(query(path, { ...filter, before: pageParam, limit: size }), signal),
    initialPageParam: '' as Next,
    getNextPageParam: (last) => last.next || undefined,
    placeholderData: (before) => before,
    refetchInterval,
  })
  return { list, all: list.data?.pages.flatMap((p) => (p[name] as T[] | null | undefined) ?? []) ?? [] }
}

/** The button that asks for the next page of a list, where there is one. */
export function Older({ list }: { list: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => Promise<unknown> } }) {
  if (!list.hasNextPage) return null
  return (
    <div style={{ padding: 12, textAlign: 'center' }}>
      <button className="button" onClick={() => void list.fetchNextPage()} disabled={list.isFetchingNextPage}>
        Show older ones
      </button>
    </div>
  )
}
