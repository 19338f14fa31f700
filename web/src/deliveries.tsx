// Deliveries: what was brought into a cluster, from which commit, and how that ended.
import { Link } from 'wouter'
import { appPath, type Delivery, type FieldChange, type ObjectChange } from './api'
import { plural, took } from './format'
import { Mark } from './icons'
import { Older, usePages } from './lists'
import { look } from './status'
import { Age, Badge, Empty, Loading, Problem, Sha, useRows } from './ui'
import { useLocation } from 'wouter'

export function Deliveries({ filter, showApp }: { filter: Record<string, string | number | undefined>; showApp?: boolean }) {
  const [, go] = useLocation()
  const { list, all } = usePages<Delivery>('deliveries', '/api/v1/deliveries', 'deliveries', filter, 50)
  const at = useRows(all.length, (i) => go(`/history/${all[i]!.id}`))
  if (list.isPending) return <Loading what="history" />
  if (list.isError && all.length === 0) return <Problem error={list.error} what="history" retry={() => void list.refetch()} />
  if (all.length === 0) return <Empty icon="history" title="No deliveries">A commit that is applied and a rollback are deliveries.</Empty>
  return (
    <>
      <ul className="timeline">
        {all.map((d, i) => (
          <li key={d.id} style={i === at ? { background: 'var(--accent-soft)' } : undefined}>
            <Mark {...look(d.status)} />
            <div className="grow">
              <div className="what">
                <Link href={`/history/${d.id}`}>{d.title || d.message || d.revision || `Delivery ${d.id}`}</Link>
              </div>
              <div className="row wrap small dim" style={{ gap: '2px 10px' }}>
                {showApp && <Link href={`/apps/${appPath(d.app)}`}>{d.app.name}</Link>}
                {d.environment && <span className="tag">{d.environment}</span>}
                {d.trigger && d.trigger !== 'commit' && <span className="tag">{d.trigger}</span>}
                <Sha sha={d.sha} />
                {d.author && <span>{d.author}</span>}
                {d.actor && d.actor !== d.author && <span>by {d.actor}</span>}
                {d.objects ? <span>{plural(d.objects, 'object')}</span> : null}
                {d.status === 'failed' && d.message && d.title && <span className="tone-bad">{d.message}</span>}
              </div>
            </div>
            <span className="small dim nowrap num">
              <Age time={d.began} />
              <br />
              {took(d.began, d.finished)}
            </span>
          </li>
        ))}
      </ul>
      <Older list={list} />
    </>
  )
}

function written(v: unknown): string {
  return typeof v === 'string' ? v : JSON.stringify(v)
}

/** Which fields changed, with both values; those of Secrets without. */
export function Fields({ fields, more }: { fields?: FieldChange[]; more?: number }) {
  if (!fields?.length) return null
  return (
    <div className="fields" style={{ padding: '6px 0 2px 4px' }}>
      {fields.map((f) => (
        <div key={f.path} style={{ display: 'contents' }}>
          <span className="dim" style={{ overflowWrap: 'anywhere' }}>
            {f.path}
          </span>
          <span>
            {f.secret ? (
              <span className="dim">a secret changed</span>
            ) : (
              <>
                {f.before !== undefined && <del>{written(f.before)}</del>} {f.after !== undefined && <ins>{written(f.after)}</ins>}
              </>
            )}
          </span>
        </div>
      ))}
      {more ? <span className="dim">and {more} more fields</span> : null}
    </div>
  )
}

/** What changed in which object: fields with both values, those of Secrets without. */
export function Changes({ changes, objects = 0 }: { changes: ObjectChange[]; objects?: number }) {
  if (changes.length === 0) return <p className="dim">No object changed.</p>
  return (
    <ul>
      {changes.map((c) => (
        <li key={`${c.kind}/${c.namespace}/${c.name}`} style={{ padding: '8px 0' }}>
          <div className="row">
            <Badge status={c.verb} as={{ tone: /delete|prune/i.test(c.verb) ? 'bad' : /create/i.test(c.verb) ? 'ok' : 'run', shape: 'dot' }} text={c.verb} />
            <b className="cut">
              {c.kind}/{c.name}
            </b>
            <span className="dim small">{c.namespace}</span>
          </div>
          <Fields fields={c.fields} more={c.more} />
        </li>
      ))}
      {objects > changes.length && <li className="dim">and {plural(objects - changes.length, 'more object')}</li>}
    </ul>
  )
}
