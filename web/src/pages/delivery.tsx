import { useQuery } from '@tanstack/react-query'
import { Link, useParams } from 'wouter'
import { appPath, get, type Delivery } from '../api'
import { Changes } from '../deliveries'
import { clock, took } from '../format'
import { Mark } from '../icons'
import { look } from '../status'
import { Badge, Loading, Person, Problem, Sha, useTitle } from '../ui'

export default function DeliveryPage() {
  const { id } = useParams<{ id: string }>()
  const q = useQuery({ queryKey: ['deliveries', 'one', id], queryFn: ({ signal }) => get<Delivery>(`/api/v1/deliveries/${encodeURIComponent(id)}`, signal) })
  const d = q.data
  useTitle(d?.title ?? `Delivery ${id}`)
  return (
    <div className="page">
      <div className="crumbs">
        <Link href="/history">History</Link> <span>/</span> <span>{id}</span>
      </div>
      {q.isPending && <Loading what="delivery" />}
      {q.isError && (
        <div className="card">
          <Problem error={q.error} what="delivery" retry={() => void q.refetch()} />
        </div>
      )}
      {d && (
        <>
          <div className="page-head">
            <div className="title">
              <Mark {...look(d.status)} big />
              <h1>{d.title || `Delivery ${d.id}`}</h1>
              <Badge status={d.status} />
            </div>
          </div>
          {d.message && d.status === 'failed' && (
            <div className="banner tone-bad" role="alert">
              <Mark tone="bad" shape="cross" />
              <pre>{d.message}</pre>
            </div>
          )}
          <div className="grid2">
            <section className="card" aria-label="What changed">
              <header>
                <h2>What changed</h2>
              </header>
              <div className="body">
                <Changes changes={d.changes ?? []} objects={d.objects} />
              </div>
            </section>
            <section className="card" aria-label="Facts">
              <div className="body">
                <dl className="facts">
                  <dt>App</dt>
                  <dd>
                    <Link href={`/apps/${appPath(d.app)}`}>{d.app.name}</Link>
                  </dd>
                  {fact('Environment', d.environment)}
                  {fact('Trigger', d.trigger)}
                  {fact('Commit', d.sha && <Sha sha={d.sha} />)}
                  {fact('Before', d.previousSha && <Sha sha={d.previousSha} />)}
                  {fact('Author', d.author && <Person name={d.author} />)}
                  {fact('Written', clock(d.authored))}
                  {fact('Merge request', d.mergeRequest)}
                  {fact('Approved by', d.approvers?.join(', '))}
                  {fact('Asked for by', d.actor)}
                  {fact('Pipeline', d.pipeline && <Link href={`/pipelines/${d.pipeline}${d.job ? `/jobs/${d.job}` : ''}`}>#{d.pipeline}</Link>)}
                  {fact('Began', clock(d.began))}
                  {fact('Applied', clock(d.applied))}
                  {fact('Took', took(d.began, d.finished))}
                  {fact('Health', d.health && <Badge status={d.health} />)}
                </dl>
              </div>
            </section>
          </div>
        </>
      )}
    </div>
  )
}

function fact(name: string, value: React.ReactNode) {
  if (!value) return null
  return (
    <>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </>
  )
}
