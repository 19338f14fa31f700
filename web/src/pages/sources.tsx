import { useQuery } from '@tanstack/react-query'
import { get, type Source } from '../api'
import { revision } from '../format'
import { Mark } from '../icons'
import { Age, Badge, Empty, Loading, Problem, SearchBox, useParam, useTitle } from '../ui'

export default function Sources() {
  useTitle('Sources')
  const [q, setQ] = useParam('q')
  const list = useQuery({ queryKey: ['sources'], queryFn: async ({ signal }) => (await get<{ sources: Source[] }>('/api/v1/sources', signal)).sources, refetchInterval: 5000 })
  const all = (list.data ?? []).filter((s) => `${s.kind} ${s.namespace}/${s.name} ${s.url}`.toLowerCase().includes(q.toLowerCase()))
  return (
    <div className="page">
      <div className="page-head">
        <h1>Sources</h1>
      </div>
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search sources" />
      </div>
      <section className="card" aria-label="Sources">
        {list.isPending && <Loading what="sources" />}
        {list.isError && !list.data && <Problem error={list.error} what="sources" retry={() => void list.refetch()} />}
        {list.data && all.length === 0 && (
          <Empty icon="sources" title={q ? 'No source is like that' : 'No sources yet'}>
            A source is a GitRepository, OCIRepository, HelmRepository or HelmChart of Flux in the cluster.
          </Empty>
        )}
        <ul className="timeline">
          {all.map((s) => {
            const rev = revision(s.revision)
            return (
              <li key={`${s.kind}/${s.namespace}/${s.name}`} style={{ gridTemplateColumns: 'auto minmax(0, 1fr) auto' }}>
                <span>
                  <Badge status={s.state} />
                </span>
                <div className="grow">
                  <div className="what">
                    {s.name} <span className="dim small">{s.namespace}</span> <span className="tag">{s.kind}</span>
                  </div>
                  <div className="row wrap small dim" style={{ gap: '0 10px' }}>
                    <span style={{ overflowWrap: 'anywhere' }}>{s.url}</span>
                    {s.ref && <span className="tag">{s.ref}</span>}
                    {rev.short && <code title={rev.sha}>{rev.short}</code>}
                  </div>
                  {s.state !== 'Ready' && s.message && (
                    <div className="small soft" style={{ overflowWrap: 'anywhere' }}>
                      {s.reason && <b>{s.reason} </b>}
                      {s.message}
                    </div>
                  )}
                  {s.warnings?.map((w) => (
                    <div key={w} className="small tone-warn row">
                      <Mark tone="warn" shape="warn" /> {w}
                    </div>
                  ))}
                </div>
                <span className="small dim">
                  <Age time={s.since} />
                </span>
              </li>
            )
          })}
        </ul>
      </section>
    </div>
  )
}
