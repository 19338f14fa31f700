import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Link, useLocation } from 'wouter'
import { get, query, type Pipeline } from '../api'
import { took } from '../format'
import { Age, Badge, Empty, Loading, Problem, SearchBox, Select, Sha, useNow, useParam, useRows, useTitle } from '../ui'
import { isActive } from '../status'

export default function Pipelines() {
  useTitle('Pipelines')
  const [, go] = useLocation()
  const [project, setProject] = useParam('project')
  const [status, setStatus] = useParam('status')
  const [ref, setRef] = useParam('ref')
  const projects = useQuery({ queryKey: ['projects'], queryFn: ({ signal }) => get<{ projects: { name: string }[] }>('/api/v1/projects', signal), staleTime: 60_000 })
  const filter = { project, status, ref }
  const list = useInfiniteQuery({
    queryKey: ['pipelines', filter],
    queryFn: ({ pageParam, signal }) => get<{ pipelines: Pipeline[]; next?: number }>(query('/api/v1/pipelines', { ...filter, before: pageParam || undefined, limit: 50 }), signal),
    initialPageParam: 0,
    getNextPageParam: (last) => last.next || undefined,
    placeholderData: (before) => before,
  })
  const all = list.data?.pages.flatMap((p) => p.pipelines) ?? []
  const at = useRows(all.length, (i) => go(`/pipelines/${all[i]!.id}`))
  return (
    <div className="page">
      <div className="page-head">
        <h1>Pipelines</h1>
      </div>
      <div className="tools">
        <SearchBox value={ref} onChange={setRef} label="Branch or tag" />
        <Select
          label="Status"
          value={status}
          onChange={setStatus}
          options={[['', 'Any status'], ...['running', 'pending', 'manual', 'success', 'failed', 'canceled', 'skipped', 'scheduled'].map((s): [string, string] => [s, s])]}
        />
        {projects.data && projects.data.projects.length > 1 && (
          <Select label="Project" value={project} onChange={setProject} options={[['', 'All projects'], ...projects.data.projects.map((p): [string, string] => [p.name, p.name])]} />
        )}
      </div>
      <section className="card" aria-label="Pipelines">
        {list.isPending && <Loading what="pipelines" rows={8} />}
        {list.isError && all.length === 0 && <Problem error={list.error} what="pipelines" retry={() => void list.refetch()} />}
        {list.data && all.length === 0 && (
          <Empty icon="pipelines" title={project || status || ref ? 'No pipeline is like that' : 'No pipelines yet'}>
            {!(project || status || ref) && (
              <>
                Push a repository with a <code>.gitlab-ci.yml</code> to the Git host.
              </>
            )}
          </Empty>
        )}
        {all.map((p, i) => (
          <Row key={p.id} p={p} active={i === at} />
        ))}
        {list.hasNextPage && (
          <div style={{ padding: 12, textAlign: 'center', borderTop: '1px solid var(--line)' }}>
            <button className="button" onClick={() => void list.fetchNextPage()} disabled={list.isFetchingNextPage}>
              Show older ones
            </button>
          </div>
        )}
      </section>
    </div>
  )
}

function Row({ p, active }: { p: Pipeline; active: boolean }) {
  return (
    <Link href={`/pipelines/${p.id}`} className="pipeline-row" data-active={active}>
      <span>
        <Badge status={p.status} />
      </span>
      <span className="grow" style={{ gridRow: 1 }}>
        <span className="cut" style={{ display: 'block', fontWeight: 580, color: 'var(--text)' }}>
          {p.title || `Pipeline ${p.id}`}
        </span>
        <span className="row small dim wrap" style={{ gap: '0 10px' }}>
          <span>
            #{p.id} {p.projectPath}
          </span>
          <span>
            {p.ref} <Sha sha={p.sha} />
          </span>
          {p.source !== 'push' && <span className="tag">{p.source.replaceAll('_', ' ')}</span>}
        </span>
      </span>
      <span className="wide cut small soft">{p.author ?? p.user}</span>
      <span className="wide num small dim">
        <Took p={p} /> · <Age time={p.created} />
      </span>
    </Link>
  )
}

export function Took({ p }: { p: { started?: string; finished?: string; status: string } }) {
  const now = useNow()
  const text = isActive(p.status) || p.finished ? took(p.started, p.finished, now) : ''
  return <>{text || '–'}</>
}
