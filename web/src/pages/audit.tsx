import { useQuery } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { Link } from 'wouter'
import { appPath, get, query, type Answer, type AuditRecord, type SaidCommit } from '../api'
import { Changes } from '../deliveries'
import { clock, plural, shortened } from '../format'
import { Icon } from '../icons'
import { Older, usePages } from '../lists'
import { words } from '../status'
import { Age, Badge, Empty, Loading, Person, Problem, SearchBox, Sha, Sign, useParam, useTitle } from '../ui'

export default function Audit() {
  useTitle('Audit')
  const [q, setQ] = useParam('q')
  const [actor, setActor] = useParam('actor')
  const [action, setAction] = useParam('action')
  const [object, setObject] = useParam('object')
  const [from, setFrom] = useParam('from')
  const [to, setTo] = useParam('to')
  const filter = { q, actor, action, object, from: from && new Date(from).toISOString(), to: to && new Date(`${to}T23:59:59`).toISOString() }
  const { list, all } = usePages<AuditRecord>('audit', '/api/v1/audit', 'records', filter, 100, 15_000)
  return (
    <div className="page">
      <div className="page-head">
        <h1>Audit</h1>
      </div>
      <Why />
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search the audit" />
        <label className="row small dim">
          from <input className="input" type="date" value={from} onChange={(e) => setFrom(e.target.value)} />
        </label>
        <label className="row small dim">
          to <input className="input" type="date" value={to} onChange={(e) => setTo(e.target.value)} />
        </label>
        {(
          [
            ['actor', actor, setActor],
            ['action', action, setAction],
            ['object', object, setObject],
          ] as const
        ).map(
          ([name, value, set]) =>
            value && (
              <button key={name} className="chip" aria-pressed="true" onClick={() => set('')}>
                {name} {value} ×
              </button>
            ),
        )}
      </div>
      <section className="card" aria-label="Records">
        {list.isPending && <Loading what="audit" />}
        {list.isError && all.length === 0 && <Problem error={list.error} what="audit" retry={() => void list.refetch()} />}
        {list.data && all.length === 0 && <Empty icon="audit" title={Object.values(filter).some(Boolean) ? 'No record is like that' : 'No records yet'} />}
        <ol className="timeline">
          {all.map((r) => {
            const detail = r.detail === undefined || r.detail === null ? '' : typeof r.detail === 'string' ? r.detail : JSON.stringify(r.detail)
            return (
              <li key={r.seq} title={r.hash && `record ${r.seq}, hash ${r.hash}`}>
                <Sign status={r.outcome ?? ''} />
                <div className="grow">
                  <div className="row wrap" style={{ gap: '2px 8px' }}>
                    <Person name={r.actor} />
                    <span className="what">{r.action}</span>
                    <span style={{ overflowWrap: 'anywhere' }}>{r.object}</span>
                  </div>
                  <div className="small dim" style={{ overflowWrap: 'anywhere' }} title={detail}>
                    {r.outcome && `${words(r.outcome)}`}
                    {detail && ` · ${shortened(detail)}`}
                  </div>
                </div>
                <span className="small dim num">
                  <Age time={r.time} />
                  <br />#{r.seq}
                </span>
              </li>
            )
          })}
        </ol>
        <Older list={list} />
      </section>
    </div>
  )
}

// Kind/name, Kind/namespace/name, and behind it perhaps a field.
function asked(text: string): { kind: string; namespace?: string; name: string; field?: string } | undefined {
  const [object = '', field] = text.trim().split(/\s+/, 2)
  const parts = object.split('/').filter(Boolean)
  if (parts.length === 2) return { kind: parts[0]!, name: parts[1]!, field }
  if (parts.length === 3) return { kind: parts[0]!, namespace: parts[1], name: parts[2]!, field }
  return undefined
}

function Why() {
  const [why, setWhy] = useParam('why')
  const [text, setText] = useState(why)
  const what = asked(why)
  const answer = useQuery({
    queryKey: ['why', why],
    enabled: what !== undefined,
    queryFn: ({ signal }) => get<Answer>(query('/api/v1/why', { kind: what?.kind, name: what?.name, namespace: what?.namespace, field: what?.field }), signal),
  })
  const submit = (e: FormEvent) => {
    e.preventDefault()
    setWhy(text.trim())
  }
  return (
    <section className="card" aria-label="Why is something as it is">
      <form className="row" style={{ padding: 14 }} onSubmit={submit}>
        <Icon name="help" />
        <label className="hidden-text" htmlFor="why">
          Why is an object as it is
        </label>
        <input id="why" className="input grow mono" placeholder="Why? deployment/dev/backend spec.replicas" value={text} onChange={(e) => setText(e.target.value)} />
        <button className="button primary">Why</button>
      </form>
      {why && !what && <p className="dim" style={{ padding: '0 16px 14px' }}>Say an object as kind/name or kind/namespace/name, and perhaps one of its fields.</p>}
      {what && answer.isPending && <Loading what="answer" rows={3} />}
      {answer.isError && <Problem error={answer.error} what="answer" />}
      {answer.data && (
        <div className="body" style={{ borderTop: '1px solid var(--line)' }}>
          <Answered a={answer.data} />
        </div>
      )}
    </section>
  )
}

/** Who has made an object what it is: from the commit to the cluster. */
function Answered({ a }: { a: Answer }) {
  const d = a.delivery
  if (!a.found || !d) return <p className="soft">{a.note || 'No delivery is known that has changed it.'}</p>
  const object = a.object ?? a
  return (
    <div className="stack" style={{ gap: 14 }}>
      <p style={{ fontSize: 15 }}>
        <b>
          {object.kind}/{object.name}
        </b>
        {a.field && <code> {a.field}</code>} was {a.what || 'changed'}
        {a.previous && (
          <>
            {' '}
            from <del className="tag">{a.previous}</del>
          </>
        )}
        {a.value !== undefined && a.value !== '' && (
          <>
            {' '}
            to <ins className="tag">{a.value}</ins>
          </>
        )}{' '}
        by {d.trigger === 'rollback' && 'the rollback to '}
        <Link href={`/history/${d.id}`}>{d.title || `delivery ${d.id}`}</Link>
        .
      </p>
      <dl className="facts">
        <dt>Commit</dt>
        <dd className="row">
          <Sha sha={d.sha} /> <Person name={d.author} /> <span className="dim">{clock(d.authored)}</span>
        </dd>
        <Commits a={a} />
        {d.actor && (
          <>
            <dt>Asked for by</dt>
            <dd>
              <Person name={d.actor} />
            </dd>
          </>
        )}
        {d.mergeRequest && (
          <>
            <dt>Merge request</dt>
            <dd>{d.mergeRequest}</dd>
          </>
        )}
        {(d.approvers?.length || a.approvals?.length) && (
          <>
            <dt>Approved by</dt>
            <dd>{[...(a.approvals ?? []).map((p) => `${p.by} (${p.how})`), ...(d.approvers ?? []).filter((n) => !a.approvals?.some((p) => p.by === n))].join(', ')}</dd>
          </>
        )}
        {a.pipelines && a.pipelines.length > 0 && (
          <>
            <dt>Pipeline</dt>
            <dd className="row wrap">
              {a.pipelines.map((p) => (
                <Link key={p.id} href={`/pipelines/${p.id}`}>
                  #{p.id} {p.status}
                </Link>
              ))}
            </dd>
          </>
        )}
        <dt>App</dt>
        <dd>
          <Link href={`/apps/${appPath(d.app)}`}>{d.app.name}</Link> {d.environment && <span className="tag">{d.environment}</span>}
        </dd>
        <dt>Applied</dt>
        <dd>{clock(d.applied ?? d.began)}</dd>
        <dt>Health</dt>
        <dd>
          <Badge status={d.health || d.status} />
        </dd>
      </dl>
      {a.fields && a.fields.length > 0 && <Changes changes={[{ kind: object.kind, namespace: object.namespace, name: object.name, verb: a.what ?? 'changed', fields: a.fields }]} />}
      {a.declaration && (
        <p className="small soft">
          The app itself was changed by <Link href={`/history/${a.declaration.delivery.id}`}>{a.declaration.delivery.title}</Link>.
        </p>
      )}
      {a.repairs && a.repairs.length > 0 && <p className="small soft">Since then {plural(a.repairs.length, 'change')} by others {a.repairs.length === 1 ? 'was' : 'were'} undone.</p>}
      {a.earlier && a.earlier.length > 0 && (
        <div>
          <h2 className="h3">Before that</h2>
          {a.earlier.map((e) => (
            <div key={e.delivery.id} className="row small" style={{ padding: '3px 0' }}>
              <Sha sha={e.delivery.sha} /> <Link href={`/history/${e.delivery.id}`}>{e.delivery.title}</Link>
              <span className="dim">
                {e.delivery.author} · <Age time={e.delivery.applied ?? e.delivery.began} />
              </span>
            </div>
          ))}
        </div>
      )}
      {a.note && <p className="small dim">{a.note}</p>}
    </div>
  )
}

/** How many of the commits that may have changed something too are listed. */
const mostAmong = 10

/** What is known of the commits that came with the one that is named. */
function Commits({ a }: { a: Answer }) {
  const among = a.among ?? []
  return (
    <>
      {(a.unsure || among.length > 0) && (
        <>
          <dt>{a.unsure ? 'Not certain' : 'Changed too by'}</dt>
          <dd>
            {a.unsure && <div className="soft">{a.unsure}</div>}
            {among.slice(0, mostAmong).map((c) => (
              <SaidLine key={c.sha} c={c} />
            ))}
            {among.length > mostAmong && <div className="dim">and {plural(among.length - mostAmong, 'more commit')}</div>}
          </dd>
        </>
      )}
      {a.head && (
        <>
          <dt>Delivered with others, at</dt>
          <dd>
            <SaidLine c={a.head} />
          </dd>
        </>
      )}
    </>
  )
}

function SaidLine({ c }: { c: SaidCommit }) {
  return (
    <div className="row wrap" style={{ gap: '2px 8px' }}>
      <Sha sha={c.sha} /> <span style={{ overflowWrap: 'anywhere' }}>{c.title}</span> <span className="dim">{c.author}</span>
    </div>
  )
}
