import { useQuery } from '@tanstack/react-query'
import { Link } from 'wouter'
import { appPath, get, query, type Environment, type Matrix } from '../api'
import { EnvironmentActions } from '../environments'
import { Mark } from '../icons'
import { look } from '../status'
import { Age, Badge, Empty, Loading, Problem, SearchBox, Select, Sha, Tabs, useParam, useTitle } from '../ui'

export default function Environments() {
  useTitle('Environments')
  const [view] = useParam('view')
  return (
    <div className="page">
      <div className="page-head">
        <h1>Environments</h1>
      </div>
      <Tabs
        now={view || 'list'}
        tabs={[
          { id: 'list', href: '/environments', name: 'Of pipelines' },
          { id: 'matrix', href: '/environments?view=matrix', name: 'Apps × environments' },
        ]}
      />
      {view === 'matrix' ? <MatrixView /> : <List />}
    </div>
  )
}

function List() {
  const [q, setQ] = useParam('q')
  const [state, setState] = useParam('state')
  const list = useQuery({
    queryKey: ['environments', state],
    queryFn: ({ signal }) => get<{ environments: Environment[] }>(query('/api/v1/environments', { state, limit: 1000 }), signal),
    placeholderData: (before) => before,
  })
  const all = (list.data?.environments ?? []).filter((e) => `${e.projectPath} ${e.name}`.toLowerCase().includes(q.toLowerCase()))
  const projects = [...new Set(all.map((e) => e.projectPath))].sort()
  return (
    <>
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search environments" />
        <Select
          label="State"
          value={state}
          onChange={setState}
          options={[
            ['', 'Any state'],
            ['available', 'available'],
            ['stopped', 'stopped'],
          ]}
        />
      </div>
      {list.isPending && (
        <div className="card">
          <Loading what="environments" />
        </div>
      )}
      {list.isError && !list.data && (
        <div className="card">
          <Problem error={list.error} what="environments" retry={() => void list.refetch()} />
        </div>
      )}
      {list.data && all.length === 0 && (
        <div className="card">
          <Empty icon="environments" title={q || state ? 'No environment is like that' : 'No environments yet'}>
            {!q && !state && (
              <>
                A job with <code>environment:</code> makes one.
              </>
            )}
          </Empty>
        </div>
      )}
      {projects.map((p) => (
        <section key={p} className="stack" aria-label={`Environments of ${p}`} style={{ gap: 10 }}>
          <h2>{p}</h2>
          <div className="cards">
            {all
              .filter((e) => e.projectPath === p)
              .map((e) => (
                <Card key={e.id} e={e} />
              ))}
          </div>
        </section>
      ))}
    </>
  )
}

function Card({ e }: { e: Environment }) {
  return (
    <article className="card">
      <header>
        <Mark {...look(e.state)} />
        <h3 className="grow cut">
          <Link href={`/environments/${e.id}`}>{e.name}</Link>
        </h3>
        {e.tier && e.tier !== e.name && <span className="tag">{e.tier}</span>}
        {e.state !== 'available' && <Badge status={e.state} />}
      </header>
      <div className="body stack" style={{ gap: 10 }}>
        {e.last ? (
          <div className="row small wrap" style={{ gap: '4px 10px' }}>
            <span className="tag">{e.last.ref}</span> <Sha sha={e.last.sha} />
            <Link href={`/pipelines/${e.last.pipeline}`}>pipeline #{e.last.pipeline}</Link>
            <span className="dim">
              <Age time={e.last.finished ?? e.last.created} /> ago{e.last.user && ` by ${e.last.user}`}
            </span>
          </div>
        ) : (
          <span className="small dim">Nothing was deployed yet.</span>
        )}
        <div className="row small">
          {e.url && /^https?:/.test(e.url) ? (
            <a className="cut grow" href={e.url} rel="noreferrer noopener" target="_blank">
              {e.url}
            </a>
          ) : (
            <span className="grow" />
          )}
          <EnvironmentActions environment={e} little />
        </div>
      </div>
    </article>
  )
}

function MatrixView() {
  const [q, setQ] = useParam('q')
  const matrix = useQuery({ queryKey: ['matrix'], queryFn: ({ signal }) => get<Matrix>('/api/v1/matrix', signal), refetchInterval: 30_000 })
  const rows = (matrix.data?.rows ?? []).filter((r) => r.app.toLowerCase().includes(q.toLowerCase()))
  const environments = matrix.data?.environments ?? []
  return (
    <>
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search apps" />
      </div>
      <section className="card" aria-label="Versions by environment">
        {matrix.isPending && <Loading what="versions" />}
        {matrix.isError && <Problem error={matrix.error} what="versions" retry={() => void matrix.refetch()} />}
        {matrix.data && rows.length === 0 && <Empty icon="environments" title={q ? 'No app is like that' : 'No versions yet'}>Apps of environments are shown here, with what is there and what is wanted.</Empty>}
        {rows.length > 0 && (
          <div className="scroll-x" tabIndex={0} role="group" aria-label="Versions">
            <table className="matrix">
              <thead>
                <tr>
                  <th scope="col">App</th>
                  {environments.map((e) => (
                    <th scope="col" key={e}>
                      <Link href={`/?environment=${encodeURIComponent(e)}`}>{e}</Link>
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {rows.map((r) => (
                  <tr key={r.app}>
                    <th scope="row">{r.app}</th>
                    {environments.map((e) => {
                      const c = r.cells[e]
                      if (!c) {
                        return (
                          <td key={e} className="dim">
                            –
                          </td>
                        )
                      }
                      const [kind, namespace, name] = (c.id ?? '').split('/')
                      const version = <code>{c.sha ? c.sha.slice(0, 7) : c.revision || '?'}</code>
                      return (
                        <td key={e}>
                          <span className="row">
                            <Mark {...look(c.state)} />
                            {name ? <Link href={`/apps/${appPath({ kind: kind!, namespace: namespace!, name })}`}>{version}</Link> : version}
                            {c.wanted && c.sha && !c.wanted.includes(c.sha) && c.wanted !== c.revision && (
                              <span className="small dim" title={`wanted: ${c.wanted}`}>
                                → {c.wanted.slice(-40).slice(0, 7)}
                              </span>
                            )}
                          </span>
                        </td>
                      )
                    })}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
    </>
  )
}
