// What is asked for under the same key in several places, or before a page is drawn.
import { queryOptions } from '@tanstack/react-query'
import { APIError, get, missing, type Job, type Me, type PipelineDetail, type PipelineGraph } from './api'
import { isActive } from './status'

export const meQuery = queryOptions({
  queryKey: ['me'],
  queryFn: async ({ signal }): Promise<Me | null> => {
    try {
      return await get<Me>('/api/v1/me', signal)
    } catch (err) {
      if (err instanceof APIError && err.status === 401) return null
      if (missing(err)) return { name: '' } // a server that knows no people
      throw err
    }
  },
  staleTime: 60_000,
})

export const jobQuery = (id: number) => queryOptions({ queryKey: ['job', id], queryFn: ({ signal }) => get<Job>(`/api/v1/jobs/${id}`, signal) })

export const pipelineQuery = (id: number) =>
  queryOptions({
    queryKey: ['pipeline', id],
    queryFn: ({ signal }) => get<PipelineDetail>(`/api/v1/pipelines/${id}`, signal),
    refetchInterval: (q) => (q.state.data && isActive(q.state.data.status) ? 15_000 : false),
  })

export const graphQuery = (id: number) =>
  queryOptions({ queryKey: ['graph', id], queryFn: ({ signal }) => get<PipelineGraph>(`/api/v1/pipelines/${id}/graph`, signal), staleTime: 5 * 60_000 })
