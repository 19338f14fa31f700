import { useVirtualizer } from '@tanstack/react-virtual'
import { memo, useEffect, useMemo, useRef, type MouseEvent } from 'react'
import { useLocation, useSearch } from 'wouter'
import { appPath, type App } from '../api'
import { filterOf, firstPage, groupOf, useApps } from '../apps'
import { rows, states, type Row } from '../filter'
import { plural, revision, shortened } from '../format'
import { Mark } from '../icons'
import { look, words } from '../status'
import { Age, Badge, Empty, Loading, Problem, SearchBox, Select, useParam, useRows, useTitle } from '../ui'

export function Overview() {
  const [q, setQ] = useParam('q')
  const [state, setState] = useParam('state')
  const [namespace, setNamespace] = useParam('namespace')
  const [environment, setEnvironment] = useParam('environment')
  const [kind, setKind] = useParam('kind')
  const [, setBy] = useParam('group')
  const search = useSearch()
  const group = groupOf(search)
  const filter = useMemo(() => filterOf(search), [search])
  const list = useApps(filter, firstPage(filter))
  const pages = list.data?.pages
  const apps = useMemo(() => pages?.flatMap((p) => p.apps) ?? [], [pages])
  const shown = useMemo(() => rows(apps, group), [apps, group])
  const counts = pages?.[0]?.counts ?? {}
  const total = Object.values(counts).reduce((a, b) => a + b, 0)
  const filtered = q !== '' || state !== '' || namespace !== '' || environment !== '' || kind !== ''
  useTitle(counts.Failing ? `${counts.Failing} failing` : 'Apps')
  const chip = (set: (v: string) => void, name: string, value: string) =>
    value && (
      <button className="chip" aria-pressed="true" onClick={() => set('')} aria-label={`${name} ${value}: show all`}>
        {name} {value} ×
      </button>
    )
  return (
    <div className="page fill">
      <div className="page-head">
        <h1>Apps</h1>
        {pages && <span className="dim">{plural(total, 'app')}</span>}
      </div>
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search apps" />
        <div className="chips" role="group" aria-label="Filter by state">
          {states
            .filter((s) => counts[s] || s === state)
            .map((s) => (
              <button key={s} className="chip" aria-pressed={state === s} onClick={() => setState(state === s ? '' : s)}>
                <Mark {...look(s)} />
                {words(s)} <b>{counts[s] ?? 0}</b>
              </button>
            ))}
          {chip(setNamespace, 'namespace', namespace)}
          {chip(setEnvironment, 'environment', environment)}
          {chip(setKind, 'kind', kind)}
        </div>
        <span className="spacer" />
        <Select
          label="Group by"
          value={group}
          onChange={setBy}
          options={[
            ['', 'No groups'],
            ['environment', 'By environment'],
            ['namespace', 'By namespace'],
            ['kind', 'By kind'],
            ['state', 'By state'],
          ]}
        />
      </div>
      <section className="card fill" aria-label="Apps">
        {list.isPending && <Loading what="apps" rows={8} />}
        {list.isError && !pages && <Problem error={list.error} what="apps" retry={() => void list.refetch()} />}
        {pages && shown.length === 0 && (
          <Empty title={filtered ? 'No app is like that' : 'No apps yet'}>
            {filtered
              ? 'Search for something else, or take a filter out.'
              : 'An app is a Kustomization or HelmRelease of Flux or an Application of Argo CD in the cluster. Push one to the sample’s repository, or apply it.'}
          </Empty>
        )}
        {shown.length > 0 && <List rows={shown} more={() => list.hasNextPage && !list.isFetchingNextPage && void list.fetchNextPage()} />}
      </section>
    </div>
  )
}

const small = window.matchMedia('(max-width: 760px)')

function List({ rows, more }: { rows: Row[]; more: () => void }) {
  const scroll = useRef<HTMLDivElement>(null)
  const [, go] = useLocation()
  const list = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroll.current,
    estimateSize: (i) => ('group' in rows[i]! ? 36 : small.matches ? 60 : 52),
    getItemKey: (i) => {
      const r = rows[i]!
      return 'group' in r ? `group ${r.group}` : r.app.id
    },
    overscan: 8,
  })
  const at = useRows(rows.length, (i) => {
    const r = rows[i]!
    if ('app' in r) go(`/apps/${appPath(r.app)}`)
  })
  useEffect(() => {
    if (at >= 0) list.scrollToIndex(at, { align: 'auto' })
  }, [at, list])
  const items = list.getVirtualItems()
  const last = items[items.length - 1]?.index ?? 0
  useEffect(() => {
    if (last > rows.length - 60) more()
  }, [last, rows.length, more])
  const click = (e: MouseEvent) => {
    const link = e.target instanceof Element ? e.target.closest('a') : null
    if (!link || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return
    e.preventDefault()
    go(link.getAttribute('href')!)
  }
  return (
    <>
      <div className="list-head" aria-hidden="true">
        <span>App</span>
        <span>State</span>
        <span className="wide">Revision</span>
        <span className="wide">What it says</span>
        <span className="wide num">Since</span>
      </div>
      <div className="list" ref={scroll} tabIndex={0} role="group" aria-label="Apps, in their order">
        <div className="list-inner" style={{ height: list.getTotalSize() }} onClick={click}>
          {items.map((v) => {
            const r = rows[v.index]!
            const place = { transform: `translateY(${v.start}px)` }
            if ('group' in r) {
              return (
                <div key={v.key} className="group-row" style={place}>
                  {r.group || 'none'} <span className="dim">{r.count}</span>
                </div>
              )
            }
            return <AppRow key={v.key} app={r.app} start={v.start} active={v.index === at} />
          })}
        </div>
      </div>
    </>
  )
}

// Links without a part of their own each: a list of many rows is scrolled through.
const AppRow = memo(function AppRow({ app, start, active }: { app: App; start: number; active: boolean }) {
  const rev = revision(app.revision)
  // That all is well the badge says already.
  const message = app.state === 'Ready' ? (app.title ? [app.title, app.author].filter(Boolean).join(' · ') : plural(app.objects, 'object')) : shortened(app.message ?? app.reason ?? '')
  return (
    <a href={`/apps/${appPath(app)}`} className="app-row" style={{ transform: `translateY(${start}px)` }} data-active={active}>
      <span className="grow">
        <span className="cut name" style={{ display: 'block' }}>
          {app.name}
        </span>
        <span className="cut sub" style={{ display: 'block' }}>
          {app.kind === 'Kustomization' ? '' : `${app.kind} · `}
          {app.namespace} · {app.path || app.source}
        </span>
      </span>
      <span>
        <Badge status={app.state} />
      </span>
      <span className="cut wide small">
        {rev.ref && <span className="soft">{rev.ref} </span>}
        {rev.short && <code title={rev.sha}>{rev.short}</code>}
      </span>
      <span className="cut wide small soft" title={message}>
        {app.warnings && app.warnings.length > 0 && <Mark tone="warn" shape="warn" />} {message}
      </span>
      <span className="wide num small dim">
        <Age time={app.since} />
      </span>
    </a>
  )
})
