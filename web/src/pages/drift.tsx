import { Link } from 'wouter'
import { appPath, type Repair } from '../api'
import { useApps } from '../apps'
import { Fields } from '../deliveries'
import { Mark } from '../icons'
import { Older, usePages } from '../lists'
import { look } from '../status'
import { Age, Badge, Empty, Loading, Problem, SearchBox, useParam, useTitle } from '../ui'

export default function Drift() {
  useTitle('Drift and repairs')
  const [app, setApp] = useParam('app')
  const [object, setObject] = useParam('object')
  const [manager, setManager] = useParam('manager')
  const { list, all } = usePages<Repair>('repairs', '/api/v1/repairs', 'repairs', { app, object, manager }, 50)
  const apart = useApps({ state: 'OutOfSync' })
  const drifted = apart.data?.pages.flatMap((p) => p.apps) ?? []
  return (
    <div className="page">
      <div className="page-head">
        <h1>Drift and repairs</h1>
      </div>
      {drifted.length > 0 && (
        <section className="card" aria-label="Apps that differ from Git">
          <header>
            <h2>Apps that differ from Git now</h2>
          </header>
          {drifted.map((a) => (
            <Link key={a.id} href={`/apps/${appPath(a)}/diff`} className="pipeline-row">
              <span>
                <Badge status={a.state} />
              </span>
              <span className="cut">
                <b>{a.name}</b> <span className="dim">{a.namespace}</span>
              </span>
              <span className="wide small soft cut">{a.message}</span>
            </Link>
          ))}
        </section>
      )}
      <div className="tools">
        <SearchBox value={object} onChange={setObject} label="Kind/namespace/name" />
        {app && (
          <button className="chip" aria-pressed="true" onClick={() => setApp('')}>
            app {app} ×
          </button>
        )}
        {manager && (
          <button className="chip" aria-pressed="true" onClick={() => setManager('')}>
            by {manager} ×
          </button>
        )}
      </div>
      <section className="card" aria-label="Repairs">
        {list.isPending && <Loading what="repairs" />}
        {list.isError && all.length === 0 && <Problem error={list.error} what="repairs" retry={() => void list.refetch()} />}
        {list.data && all.length === 0 && <Empty icon="drift" title="No repairs">Somebody’s change to what Git describes is undone, and told here: which field, and who it was.</Empty>}
        <ul className="timeline">
          {all.map((r) => (
            <li key={r.id}>
              <Mark {...look(r.repaired ? 'success' : 'drifted')} />
              <div className="grow">
                <div className="what">
                  {r.kind}/{r.name} <span className="dim">{r.namespace}</span> {r.times && r.times > 1 && <span className="tag">{r.times} times</span>}
                </div>
                <div className="row wrap small dim" style={{ gap: '2px 10px' }}>
                  <Link href={`/apps/${appPath(r.app)}`}>{r.app.name}</Link>
                  {!r.fields?.length && <span>deleted and made again</span>}
                  {r.manager && (
                    <span>
                      changed by{' '}
                      <button className="button quiet little" onClick={() => setManager(r.manager!)}>
                        {r.manager}
                      </button>
                    </span>
                  )}
                </div>
                <Fields fields={r.fields} more={r.more} />
              </div>
              <span className="small dim nowrap">
                <Age time={r.repaired ?? r.found} />
              </span>
            </li>
          ))}
        </ul>
        <Older list={list} />
      </section>
    </div>
  )
}
