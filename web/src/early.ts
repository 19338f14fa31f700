// What the page of an address needs is asked for at once, all of it together, and not one thing after the other as it comes to be drawn.
import type { QueryClient } from '@tanstack/react-query'
import { appsQuery, filterOf, firstPage } from './apps'
import { graphQuery, jobQuery, meQuery, pipelineQuery } from './queries'

/** Asks for what a page shows first. What comes of it, an error too, the page finds. */
export function early(client: QueryClient, path: string, search: string): Promise<unknown> {
  const asked: Promise<unknown>[] = [client.prefetchQuery(meQuery)]
  const [place, id, jobs, job] = path.split('/').slice(1)
  if (place === '') {
    const f = filterOf(search)
    asked.push(client.prefetchInfiniteQuery(appsQuery(f, firstPage(f))))
  } else if (place === 'pipelines' && Number(id) > 0) {
    asked.push(client.prefetchQuery(pipelineQuery(Number(id))), client.prefetchQuery(graphQuery(Number(id))))
    if (jobs === 'jobs' && Number(job) > 0) asked.push(client.prefetchQuery(jobQuery(Number(job))))
  }
  return Promise.all(asked)
}
