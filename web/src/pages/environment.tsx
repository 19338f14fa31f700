import { useInfiniteQuery } from '@tanstack/react-query'
import { Link, useParams } from 'wouter'
import { get, query, type EnvironmentDetail } from '../api'
import { EnvironmentActions } from '../environments'
import { clock } from '../format'
import { Mark } from '../icons'
import { Older } from '../lists'
import { look } from '../status'
import { Age, Badge, Empty, Loading, Problem, Sha, useTitle } from '../ui'

export default function EnvironmentPage() {
  const id = Number(useParams<{ id: string }>().id)
  const data = useInfiniteQuery({
    queryKey: ['environment', id],
    queryFn: ({ pageParam, signal }) => get<EnvironmentDetail>(query(`/api/v1/environments/${id}`, { before: pageParam || undefined }), signal),
    initialPageParam: 0,
    getNextPageParam: (last) => last.next || undefined,
  })
  const e = data.data?.pages[0]
  useTitle(e?.name ?? 'Environment')
  const deployments = data.data?.pages.flatMap((p) => p.deployments) ?? []
  return (
    <div className="page">
      <div className="crumbs">
        <Link href="/environments">Environments</Link> <span>/</span> <span>{e?.projectPath}</span>
      </div>
      {data.isPending && <Loading what="environment" />}
      {data.isError && !e && (
        <div className="card">
          <Problem error={data.error} what="environment" retry={() => void data.refetch()} />
        </div>
      )}
      {e && (
        <>
          <div className="page-head">
            <div className="title">
              <Mark {...look(e.state)} big />
              <h1 className="cut">{e.name}</h1>
              <Badge status={e.state} />
              {e.tier && <span className="tag">{e.tier}</span>}
            </div>
            <span className="spacer" />
            <EnvironmentActions environment={e} />
          </div>
          <div className="row wrap small" style={{ gap: '6px 20px' }}>
            {e.url && /^https?:/.test(e.url) && (
              <a href={e.url} rel="noreferrer noopener" target="_blank">
                {e.url}
              </a>
            )}
            {e.onStop && (
              <span>
                <span className="dim">is stopped by</span> {e.onStop}
              </span>
            )}
            {e.autoStop && (
              <span>
                <span className="dim">stops by itself</span> {clock(e.autoStop)}
              </span>
            )}
            <span>
              <span className="dim">since</span> {clock(e.created)}
            </span>
          </div>
          <section className="card" aria-label="Deployments">
            <header>
              <h2>Deployments</h2>
            </header>
            {deployments.length === 0 && <Empty icon="environments" title="Nothing was deployed yet" />}
            <ul className="timeline">
              {deployments.map((d) => (
                <li key={d.id}>
                  <Mark {...look(d.status)} />
                  <div className="grow">
                    <div className="what">
                      {d.iid}. <Sha sha={d.sha} /> <span className="tag">{d.ref}</span> {e.last?.id === d.id && <Badge status="success" text="is there" />}
                    </div>
                    <div className="row wrap small dim" style={{ gap: '0 10px' }}>
                      <span>{d.status}</span>
                      <Link href={`/pipelines/${d.pipeline}/jobs/${d.job}`}>{d.jobName ?? 'job'}</Link>
                      {d.user && <span>by {d.user}</span>}
                      <span>
                        <Age time={d.finished ?? d.created} /> ago
                      </span>
                    </div>
                  </div>
                  <span>{d.status === 'success' && e.last?.id !== d.id && <EnvironmentActions environment={e} to={d} little />}</span>
                </li>
              ))}
            </ul>
            <Older list={data} />
          </section>
        </>
      )}
    </div>
  )
}
