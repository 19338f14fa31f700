import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Suspense, lazy, useState } from 'react'
import { Link, useParams } from 'wouter'
import { appPath, get, query, send, type AppAsked, type AppDetail, type AppDiff, type Delivery, type ObjectEvent, type TreeNode } from '../api'
import { Deliveries } from '../deliveries'
import { at, clock, plural, revision } from '../format'
import { Icon, Mark } from '../icons'
import { LogView } from '../log/view'
import { heldAnyway, heldBack, look, words } from '../status'
import { Age, Badge, Dialog, Empty, Loading, Person, Problem, Sha, Tabs, say, useParam, useTitle } from '../ui'

const Tree = lazy(() => import('../graph/tree'))
const Merge = lazy(() => import('../diff/merge'))

interface Ref {
  kind: string
  namespace: string
  name: string
}

export default function AppPage() {
  const params = useParams<{ kind: string; namespace: string; name: string; tab?: string }>()
  const ref: Ref = { kind: decodeURIComponent(params.kind), namespace: decodeURIComponent(params.namespace), name: decodeURIComponent(params.name) }
  const id = `${ref.kind}/${ref.namespace}/${ref.name}`
  const tab = params.tab ?? 'tree'
  const base = `/apps/${appPath(ref)}`
  const app = useQuery({
    queryKey: ['app', id],
    queryFn: ({ signal }) => get<AppDetail>(`/api/v1/apps/${appPath(ref)}`, signal),
    refetchInterval: 10_000,
  })
  useTitle(ref.name)
  return (
    <div className="page fill">
      <div className="crumbs">
        <Link href="/">Apps</Link> <span>/</span>
        <Link href={`/?namespace=${encodeURIComponent(ref.namespace)}`}>{ref.namespace}</Link> <span>/</span> <span>{ref.kind}</span>
      </div>
      <div className="page-head">
        <div className="title">
          {app.data && <Mark {...look(app.data.state)} big />}
          <h1 className="cut">{ref.name}</h1>
          {app.data && <Badge status={app.data.state} />}
          {app.data?.environment && <span className="tag">{app.data.environment}</span>}
        </div>
        <span className="spacer" />
        {app.data && <Actions app={app.data} base={`/api/v1/apps/${appPath(ref)}`} />}
      </div>
      {app.isPending && (
        <div className="card">
          <Loading what="app" />
        </div>
      )}
      {app.isError && (
        <div className="card">
          <Problem error={app.error} what="app" retry={() => void app.refetch()} />
        </div>
      )}
      {app.data && (
        <>
          <Summary app={app.data} />
          <Tabs
            now={tab}
            tabs={[
              { id: 'tree', href: base, name: 'Resources' },
              { id: 'diff', href: `${base}/diff`, name: 'Diff' },
              { id: 'history', href: `${base}/history`, name: 'History' },
              { id: 'events', href: `${base}/events`, name: 'Events' },
              { id: 'status', href: `${base}/status`, name: 'Status', n: app.data.conditions?.length || undefined },
            ]}
          />
          {tab === 'tree' && <Resources app={ref} id={id} />}
          {tab === 'diff' && <Diff app={ref} id={id} />}
          {tab === 'history' && (
            <div className="card">
              <Deliveries filter={{ app: id }} />
            </div>
          )}
          {tab === 'events' && <Events app={ref} id={id} />}
          {tab === 'status' && <StatusTab app={app.data} />}
        </>
      )}
    </div>
  )
}

function Summary({ app }: { app: AppDetail }) {
  const rev = revision(app.revision)
  const bad = app.state === 'Failing' || app.state === 'OutOfSync'
  return (
    <>
      {app.state !== 'Ready' && app.state !== 'Suspended' && (app.message || app.reason) && !heldAnyway(app.message, app.holds) && (
        <div className={`banner tone-${bad ? look(app.state).tone : 'idle'}`} role={bad ? 'alert' : undefined}>
          <Mark {...look(app.state)} />
          <pre>
            {app.reason && <b>{app.reason}: </b>}
            {app.message}
          </pre>
        </div>
      )}
      {app.warnings
        ?.filter((w) => !heldAnyway(w, app.holds))
        .map((w) => (
          <div key={w} className="banner tone-warn">
            <Mark tone="warn" shape="warn" />
            <span>{w}</span>
          </div>
        ))}
      {app.holds?.map((h, i) => (
        <div key={i} className="banner tone-warn">
          <Mark tone="warn" shape="pause" />
          <span>
            Held{h.object && ` for ${h.object}`}
            {h.owner && ` by ${h.owner}`}
            {h.reason && `: ${h.reason}`}
            {h.until && `, until ${/^\d{4}-/.test(h.until) ? clock(h.until) : h.until}`}
          </span>
        </div>
      ))}
      <div className="row wrap" style={{ gap: '6px 22px' }}>
        <span className="row small">
          <span className="dim">Revision</span>
          {rev.ref} {rev.short && <code title={rev.sha}>{rev.short}</code>}
          {!rev.ref && !rev.short && '—'}
        </span>
        {app.title && (
          <span className="row small" style={{ minWidth: 0 }}>
            <span className="cut">{app.title}</span>
          </span>
        )}
        {app.author && (
          <span className="row small">
            <Person name={app.author} />
          </span>
        )}
        <span className="row small">
          <span className="dim">Source</span>
          <span className="cut">
            {app.source} {app.path && `· ${app.path}`}
          </span>
        </span>
        <span className="row small">
          <span className="dim">Objects</span> {app.objects}
        </span>
        {app.sync && (
          <span className="row small">
            <span className="dim">Sync</span> <Badge status={app.sync} />
          </span>
        )}
        {app.health && (
          <span className="row small">
            <span className="dim">Health</span> <Badge status={app.health} />
          </span>
        )}
        <span className="row small">
          <span className="dim">Since</span> <Age time={app.since} />
        </span>
      </div>
    </>
  )
}

function Actions({ app, base }: { app: AppDetail; base: string }) {
  const client = useQueryClient()
  const [ask, setAsk] = useState<'' | 'sync' | 'suspend' | 'resume' | 'rollback'>('')
  const suspended = heldBack(app)
  const done = (text: string) => {
    say(text)
    void client.invalidateQueries({ queryKey: ['app'] })
    void client.invalidateQueries({ queryKey: ['apps'] })
  }
  const close = () => setAsk('')
  return (
    <div className="row wrap">
      <button className="button" onClick={() => setAsk('rollback')}>
        <Icon name="back" /> Roll back
      </button>
      <button className="button" onClick={() => setAsk(suspended ? 'resume' : 'suspend')}>
        <Icon name={suspended ? 'play' : 'pause'} /> {suspended ? 'Resume' : 'Suspend'}
      </button>
      <button className="button primary" onClick={() => setAsk('sync')}>
        <Icon name="sync" /> Sync
      </button>
      {ask === 'sync' && (
        <Dialog title={`Sync ${app.name}?`} action="Sync" onClose={close} onDo={() => send('POST', `${base}/sync`).then(() => done(`${app.name} is being synced`))}>
          <p>What Git has now is fetched and applied. This is what would change:</p>
          <DiffPreview path={`${base}/diff`} />
        </Dialog>
      )}
      {ask === 'suspend' && (
        <Dialog title={`Suspend ${app.name}?`} action="Suspend" onClose={close} onDo={() => send('POST', `${base}/suspend`).then(() => done(`${app.name} is suspended`))}>
          <p>Commits are not applied and drift is not repaired until somebody resumes it. What runs goes on running.</p>
        </Dialog>
      )}
      {ask === 'resume' && (
        <Dialog title={`Resume ${app.name}?`} action="Resume" onClose={close} onDo={() => send('POST', `${base}/resume`).then(() => done(`${app.name} goes on`))}>
          <p>What Git has now is applied again, and drift is repaired.</p>
        </Dialog>
      )}
      {ask === 'rollback' && <Rollback app={app} base={base} onClose={close} onDone={() => done(`${app.name} goes back`)} />}
    </div>
  )
}

function DiffPreview({ path }: { path: string }) {
  const diff = useQuery({ queryKey: ['preview', path], queryFn: ({ signal }) => get<AppDiff>(path, signal) })
  if (diff.isPending) return <Loading what="changes" rows={2} />
  if (diff.isError) return <p className="dim">What would change is not known: {(diff.error as Error).message}</p>
  return <DiffSummary diff={diff.data} />
}

function DiffSummary({ diff }: { diff: AppDiff }) {
  return (
    <>
      <DiffNotes diff={diff} />
      <ObjectList objects={diff.objects ?? []} />
    </>
  )
}

function DiffNotes({ diff }: { diff: AppDiff }) {
  return (
    <>
      {diff.blocked?.map((b) => (
        <div key={b} className="banner tone-bad">
          <Mark tone="bad" shape="cross" />
          <span>Nothing of it would be done: {b}</span>
        </div>
      ))}
      {diff.notes?.map((n) => (
        <div key={n} className="banner tone-idle">
          <Mark tone="idle" shape="ask" />
          <span>{n}</span>
        </div>
      ))}
    </>
  )
}

function ObjectList({ objects }: { objects: { kind: string; namespace?: string; name: string; verb: string }[] }) {
  if (objects.length === 0) return <p className="dim">Nothing: the cluster is as Git says.</p>
  return (
    <ul className="stack" style={{ gap: 4 }}>
      {objects.map((o) => (
        <li key={`${o.kind}/${o.namespace}/${o.name}`} className="row small">
          <span className="tag">{o.verb}</span>
          <span className="cut">
            {o.kind}/{o.name} <span className="dim">{o.namespace}</span>
          </span>
        </li>
      ))}
    </ul>
  )
}

function Rollback({ app, base, onClose, onDone }: { app: AppDetail; base: string; onClose: () => void; onDone: () => void }) {
  const [to, setTo] = useState<number | string>()
  const list = useQuery({
    queryKey: ['deliveries', { app: app.id, limit: 20 }],
    queryFn: ({ signal }) => get<{ deliveries: Delivery[] | null }>(query('/api/v1/deliveries', { app: app.id, limit: 20 }), signal),
  })
  const now = revision(app.revision).sha
  const good = (list.data?.deliveries ?? []).filter((d) => d.status === 'succeeded')
  const preview = useQuery({
    queryKey: ['rollback', app.id, to],
    enabled: to !== undefined,
    queryFn: () => send<AppAsked | undefined>('POST', `${base}/rollback`, { to, preview: true }),
    retry: false,
  })
  return (
    <Dialog
      title={`Roll ${app.name} back`}
      action={preview.data?.possible ? 'Roll back' : undefined}
      danger
      onClose={onClose}
      onDo={() => send('POST', `${base}/rollback`, { to, preview: false }).then(onDone)}
    >
      <p>Choose what is to be there again. Later commits are not applied until somebody resumes the app.</p>
      {list.isPending && <Loading what="history" rows={3} />}
      {list.isError && <p className="dim">The history is not known: {(list.error as Error).message}</p>}
      {list.data && good.length === 0 && <p className="dim">There is no earlier delivery to go back to.</p>}
      <div className="stack" style={{ gap: 4 }}>
        {good.map((d) => (
          <label key={d.id} className="row">
            <input type="radio" name="to" checked={to === d.id} onChange={() => setTo(d.id)} />
            <Sha sha={d.sha} />
            <span className="cut grow">{d.title ?? d.revision}</span>
            {d.sha && d.sha === now && <span className="tag">now</span>}
            <span className="dim small">
              <Age time={d.finished ?? d.began} />
            </span>
          </label>
        ))}
      </div>
      {to !== undefined && (
        <div>
          <h3>What would change</h3>
          {preview.isPending && <Loading what="changes" rows={2} />}
          {preview.isError && <p className="dim">{(preview.error as Error).message}</p>}
          {preview.data?.message && <p>{preview.data.message}</p>}
          {preview.data?.diff && <DiffSummary diff={preview.data.diff} />}
        </div>
      )}
    </Dialog>
  )
}

function Resources({ app, id }: { app: Ref; id: string }) {
  const [chosenID, setChosen] = useParam('object')
  const tree = useQuery({
    queryKey: ['app', id, 'tree'],
    queryFn: ({ signal }) => get<{ nodes: TreeNode[] | null; truncated?: boolean }>(`/api/v1/apps/${appPath(app)}/tree`, signal),
    refetchInterval: 5000,
  })
  const nodes = tree.data?.nodes ?? []
  const chosen = nodes.find((n) => n.id === chosenID)
  return (
    <div className={chosen ? 'grid2 grow' : 'grow'} style={{ display: chosen ? undefined : 'flex' }}>
      <section className="card fill" aria-label="Resource tree" style={{ minHeight: 480, height: chosen ? '100%' : undefined }}>
        {tree.isPending && <Loading what="resources" />}
        {tree.isError && <Problem error={tree.error} what="resource tree" retry={() => void tree.refetch()} />}
        {tree.data && nodes.length === 0 && <Empty title="No objects">Nothing of this app is in the cluster.</Empty>}
        {tree.data?.truncated && (
          <div className="banner tone-warn">
            <Mark tone="warn" shape="warn" />
            <span>There are more objects than are shown.</span>
          </div>
        )}
        {nodes.length > 0 && (
          <Suspense fallback={<Loading what="resources" />}>
            <Tree nodes={nodes} chosen={chosenID} onChoose={(n) => setChosen(n === chosenID ? '' : n)} />
          </Suspense>
        )}
      </section>
      {chosen && <ObjectPanel node={chosen} onClose={() => setChosen('')} />}
    </div>
  )
}

function ObjectPanel({ node, onClose }: { node: TreeNode; onClose: () => void }) {
  return (
    <aside className="card" aria-label={`${node.kind} ${node.name}`}>
      <header>
        <h2 className="grow cut">
          {node.kind} {node.name}
        </h2>
        <button className="button quiet little" onClick={onClose}>
          Close
        </button>
      </header>
      <div className="body stack">
        <dl className="facts">
          <dt>Health</dt>
          <dd>
            {node.health ? <Badge status={node.health} /> : 'this kind has none'}
          </dd>
          {node.message && (
            <>
              <dt>Says</dt>
              <dd>{node.message}</dd>
            </>
          )}
          {node.namespace && (
            <>
              <dt>Namespace</dt>
              <dd>{node.namespace}</dd>
            </>
          )}
          <dt>API</dt>
          <dd>{node.apiVersion}</dd>
          {node.ready && (
            <>
              <dt>Ready</dt>
              <dd>{node.ready}</dd>
            </>
          )}
          <dt>Age</dt>
          <dd>
            <Age time={node.created} />
          </dd>
          <dt>Owned</dt>
          <dd>{node.owned ? 'it is in Git' : 'the cluster has made it'}</dd>
        </dl>
        <Link className="small" href={`/audit?why=${encodeURIComponent(`${node.kind}/${node.namespace ?? ''}/${node.name}`)}`}>
          Why is it like this?
        </Link>
        {node.kind === 'Pod' && node.namespace && <PodLog namespace={node.namespace} name={node.name} />}
      </div>
    </aside>
  )
}

function PodLog({ namespace, name }: { namespace: string; name: string }) {
  const [open, setOpen] = useState(false)
  return (
    <>
      <button className="button" onClick={() => setOpen(true)}>
        <Icon name="file" /> Log
      </button>
      {open && (
        <PodLogDialog title={`Log of ${name}`} onClose={() => setOpen(false)}>
          <LogView key={name} path={query(`/api/v1/pods/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}/log`, { tail: 5000, follow: 1 })} name={name} live told />
        </PodLogDialog>
      )}
    </>
  )
}

function PodLogDialog({ title, children, onClose }: { title: string; children: React.ReactNode; onClose: () => void }) {
  return (
    <Dialog title={title} wide onClose={onClose}>
      <div style={{ height: '60vh', display: 'flex' }}>{children}</div>
    </Dialog>
  )
}

function Diff({ app, id }: { app: Ref; id: string }) {
  const [open, setOpen] = useParam('object')
  const diff = useQuery({
    queryKey: ['app', id, 'diff'],
    queryFn: ({ signal }) => get<AppDiff>(`/api/v1/apps/${appPath(app)}/diff`, signal),
  })
  const objects = diff.data?.objects ?? []
  return (
    <section className="card" aria-label="Diff of the cluster and Git">
      {diff.isPending && <Loading what="differences" />}
      {diff.isError && <Problem error={diff.error} what="diff" retry={() => void diff.refetch()} />}
      {diff.data && (diff.data.blocked?.length || diff.data.notes?.length) ? (
        <div className="stack" style={{ padding: 12, gap: 8 }}>
          <DiffNotes diff={diff.data} />
        </div>
      ) : null}
      {diff.data && objects.length === 0 && <Empty icon="drift" title="No differences">The cluster is as Git says.</Empty>}
      {objects.map((o, i) => {
        const name = `${o.kind}/${o.namespace ?? ''}/${o.name}`
        const shown = open === name || (open === '' && i === 0 && objects.length < 4)
        return (
          <div key={name}>
            <button className="object-head" aria-expanded={shown} onClick={() => setOpen(shown ? '-' : name)}>
              <span className="tag">{o.verb}</span>
              <b className="cut">
                {o.kind}/{o.name}
              </b>
              <span className="dim small">{o.namespace}</span>
            </button>
            {shown && (
              <div className="diff">
                {o.hidden ? (
                  <p className="dim" style={{ padding: 16 }}>You may not see this object.</p>
                ) : (
                  <Suspense fallback={<Loading what="difference" />}>
                    <Merge before={o.before} after={o.after} />
                  </Suspense>
                )}
              </div>
            )}
          </div>
        )
      })}
    </section>
  )
}

function Events({ app, id }: { app: Ref; id: string }) {
  const events = useQuery({
    queryKey: ['app', id, 'events'],
    queryFn: ({ signal }) => get<{ events: ObjectEvent[] | null }>(`/api/v1/apps/${appPath(app)}/events`, signal),
    refetchInterval: 10_000,
  })
  const all = [...(events.data?.events ?? [])].sort((a, b) => (at(b.last ?? b.first) ?? 0) - (at(a.last ?? a.first) ?? 0))
  return (
    <section className="card" aria-label="Events">
      {events.isPending && <Loading what="events" />}
      {events.isError && <Problem error={events.error} what="events" retry={() => void events.refetch()} />}
      {events.data && all.length === 0 && <Empty icon="history" title="No events">Kubernetes keeps events for an hour.</Empty>}
      <ul className="timeline">
        {all.map((e, i) => (
          <li key={i}>
            <Mark tone={e.type === 'Warning' ? 'warn' : 'idle'} shape={e.type === 'Warning' ? 'warn' : 'dot'} />
            <div className="grow">
              <div className="what">
                {e.reason} <span className="dim">{e.object}</span>
              </div>
              <div className="soft small" style={{ overflowWrap: 'anywhere' }}>
                {e.message}
              </div>
            </div>
            <span className="small dim nowrap">
              {e.count && e.count > 1 ? `${e.count} × ` : ''}
              <Age time={e.last ?? e.first} />
            </span>
          </li>
        ))}
      </ul>
    </section>
  )
}

function StatusTab({ app }: { app: AppDetail }) {
  const s = app.spec
  return (
    <div className="grid2">
      <section className="card" aria-label="Conditions">
        <header>
          <h2>Conditions</h2>
        </header>
        {!app.conditions?.length && <Empty title="No conditions">This server tells of none.</Empty>}
        <ul className="timeline">
          {app.conditions?.map((c) => (
            <li key={c.type}>
              <Mark {...(c.status === 'True' ? look(c.type === 'Stalled' ? 'failed' : 'ready') : c.status === 'False' ? look(c.type === 'Ready' ? 'failed' : 'created') : look('working'))} />
              <div className="grow">
                <div className="what">
                  {c.type} <span className="dim">{c.status.toLowerCase()}</span> {c.reason && <span className="tag">{c.reason}</span>}
                </div>
                <div className="soft small" style={{ overflowWrap: 'anywhere' }}>
                  {c.message}
                </div>
              </div>
              <span className="small dim">
                <Age time={c.lastTransitionTime} />
              </span>
            </li>
          ))}
        </ul>
      </section>
      <section className="card" aria-label="Settings">
        <header>
          <h2>Settings</h2>
        </header>
        <div className="body">
          <dl className="facts">
            <dt>Source</dt>
            <dd>{s?.source ?? app.source}</dd>
            <dt>Path</dt>
            <dd>{s?.path ?? app.path}</dd>
            {s?.interval && (
              <>
                <dt>Interval</dt>
                <dd>{s.interval}</dd>
              </>
            )}
            {s?.targetNamespace && (
              <>
                <dt>Namespace</dt>
                <dd>{s.targetNamespace}</dd>
              </>
            )}
            <dt>Suspended</dt>
            <dd>{heldBack(app) ? 'yes' : 'no'}</dd>
            <dt>Objects</dt>
            <dd>{plural(app.objects, 'object')}</dd>
            <dt>Created</dt>
            <dd>{clock(app.created)}</dd>
            {app.dependsOn && app.dependsOn.length > 0 && (
              <>
                <dt>After</dt>
                <dd>{app.dependsOn.map((d) => (typeof d === 'string' ? d : d.name)).join(', ')}</dd>
              </>
            )}
          </dl>
        </div>
      </section>
      <span className="hidden-text">{words(app.state)}</span>
    </div>
  )
}
