import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Component, Suspense, useEffect, useState, type ReactNode } from 'react'
import { Link, Route, Switch, useLocation } from 'wouter'
import { onLoggedOut, send, setCSRF, type Me } from './api'
import { Icon, Logo, Mark, type IconName } from './icons'
import { follow, useLiveState } from './live'
import { page, type Page } from './page'
import { Overview } from './pages/overview'
import { meQuery } from './queries'
import { toggleTheme, useTheme } from './theme'
import { Dialog, Empty, Loading, Problem, Toasts, typing, useTitle } from './ui'

const AppPage = page(() => import('./pages/app'))
const Pipelines = page(() => import('./pages/pipelines'))
const PipelinePage = page(() => import('./pages/pipeline'))
const JobPage = page(() => import('./pages/job'))
const Environments = page(() => import('./pages/environments'))
const EnvironmentPage = page(() => import('./pages/environment'))
const Drift = page(() => import('./pages/drift'))
const Audit = page(() => import('./pages/audit'))
const History = page(() => import('./pages/history'))
const DeliveryPage = page(() => import('./pages/delivery'))
const Sources = page(() => import('./pages/sources'))

/** Loads the page of an address, or all of them. */
export async function load(path?: string) {
  const at: [RegExp, Page][] = [
    [/^\/apps\//, AppPage],
    [/^\/pipelines\/[^/]+\/jobs\//, JobPage],
    [/^\/pipelines\/[^/]/, PipelinePage],
    [/^\/pipelines/, Pipelines],
    [/^\/environments\/[^/]/, EnvironmentPage],
    [/^\/environments/, Environments],
    [/^\/history\/[^/]/, DeliveryPage],
    [/^\/history/, History],
    [/^\/drift/, Drift],
    [/^\/audit/, Audit],
    [/^\/sources/, Sources],
  ]
  const wanted = path === undefined ? at : at.filter(([is]) => is.test(path)).slice(0, 1)
  await Promise.allSettled(wanted.map(([, p]) => p.load())) // one that fails is tried again when it is shown
}

// The beginnings of these addresses are also in internal/web/spa.go.
const places: { href: string; name: string; icon: IconName; key: string }[] = [
  { href: '/', name: 'Apps', icon: 'apps', key: 'a' },
  { href: '/pipelines', name: 'Pipelines', icon: 'pipelines', key: 'p' },
  { href: '/environments', name: 'Environments', icon: 'environments', key: 'e' },
  { href: '/history', name: 'History', icon: 'history', key: 'h' },
  { href: '/drift', name: 'Drift', icon: 'drift', key: 'd' },
  { href: '/audit', name: 'Audit', icon: 'audit', key: 'u' },
  { href: '/sources', name: 'Sources', icon: 'sources', key: 's' },
]

export function App() {
  const client = useQueryClient()
  const me = useQuery(meQuery)
  useEffect(
    () =>
      onLoggedOut(() => {
        if (client.getQueryData(['me'])) client.setQueryData(['me'], null)
      }),
    [client],
  )
  setCSRF(me.data?.csrf)
  if (me.isPending) return null
  if (me.isError) {
    return (
      <main className="login">
        <Problem error={me.error} what="server" retry={() => void me.refetch()} />
      </main>
    )
  }
  if (me.data === null) return <LoggedOut />
  return <Shell me={me.data} />
}

/** Goes to the one place where people log in, and from there back here. */
function LoggedOut() {
  useTitle('Log in')
  useEffect(() => {
    const { pathname, search } = window.location
    window.location.replace(`/login?next=${encodeURIComponent(pathname + search)}`)
  }, [])
  return null
}

function Shell({ me }: { me: Me }) {
  const client = useQueryClient()
  const [help, setHelp] = useState(false)
  useEffect(() => follow(client), [client])
  useEffect(() => whenIdle(() => void load()), [])
  useKeys(() => setHelp(true))
  const [path] = useLocation()
  return (
    <div className="shell">
      <a className="skip" href="#main">
        Skip to the page
      </a>
      <Side me={me} onHelp={() => setHelp(true)} />
      <main className="main" id="main" tabIndex={-1}>
        <Boundary key={path}>
          <Suspense fallback={<div className="page"><Loading what="page" /></div>}>
            <Switch>
              <Route path="/" component={Overview} />
              <Route path="/apps/:kind/:namespace/:name/:tab?" component={AppPage} />
              <Route path="/pipelines" component={Pipelines} />
              <Route path="/pipelines/:id/jobs/:job" component={JobPage} />
              <Route path="/pipelines/:id/:tab?" component={PipelinePage} />
              <Route path="/environments" component={Environments} />
              <Route path="/environments/:id" component={EnvironmentPage} />
              <Route path="/history" component={History} />
              <Route path="/history/:id" component={DeliveryPage} />
              <Route path="/drift" component={Drift} />
              <Route path="/audit" component={Audit} />
              <Route path="/sources" component={Sources} />
              <Route>
                <NotFound />
              </Route>
            </Switch>
          </Suspense>
        </Boundary>
      </main>
      {help && <Help onClose={() => setHelp(false)} />}
      <Toasts />
    </div>
  )
}

/** Calls f once there is nothing else to do. */
function whenIdle(f: () => void): () => void {
  const timer = setTimeout(() => (window.requestIdleCallback ?? setTimeout)(f), 2000)
  return () => clearTimeout(timer)
}

function NotFound() {
  useTitle('No such page')
  return (
    <div className="page">
      <h1>No such page</h1>
      <div className="card">
        <Empty icon="help" title="There is nothing at this address">
          <Link href="/">Go to the apps</Link>
        </Empty>
      </div>
    </div>
  )
}

function Side({ me, onHelp }: { me: Me; onHelp: () => void }) {
  const [path] = useLocation()
  const theme = useTheme()
  const live = useLiveState()
  const client = useQueryClient()
  const here = (href: string) => (href === '/' ? path === '/' || path.startsWith('/apps/') : path === href || path.startsWith(href + '/'))
  return (
    <header className="side">
      <Link href="/" className="brand" aria-label="Keelson: apps">
        <Logo />
        <span>Keelson</span>
      </Link>
      <nav className="nav" aria-label="Main">
        {places.map((p) => (
          <Link key={p.href} href={p.href} aria-current={here(p.href) ? 'page' : undefined}>
            <Icon name={p.icon} />
            <span className="label">{p.name}</span>
            <kbd className="key" aria-hidden="true">
              g {p.key}
            </kbd>
          </Link>
        ))}
      </nav>
      <div className="side-foot">
        <span className="live" data-state={live} role="status">
          {live === 'on' ? 'Live' : live === 'wait' ? 'Connecting' : 'Not live: trying again'}
        </span>
        <div className="who">
          {me.name && (
            <>
              <span className="avatar" aria-hidden="true">
                {me.name.slice(0, 2)}
              </span>
              <span className="grow cut" title={me.groups?.join(', ')}>
                {me.name}
              </span>
            </>
          )}
          {!me.name && <span className="grow" />}
          <button className="button quiet icon" onClick={toggleTheme} aria-label={theme === 'dark' ? 'Light colours' : 'Dark colours'} title={theme === 'dark' ? 'Light colours' : 'Dark colours'}>
            <Icon name={theme === 'dark' ? 'sun' : 'moon'} />
          </button>
          <button className="button quiet icon hide-small" onClick={onHelp} aria-label="Keyboard help" title="Keyboard help (?)">
            <Icon name="help" />
          </button>
          {me.name && (
            <button
              className="button quiet icon"
              aria-label="Log out"
              title="Log out"
              onClick={() => void send('DELETE', '/api/v1/session').finally(() => void client.resetQueries())}
            >
              <Icon name="out" />
            </button>
          )}
        </div>
        {me.version && <span className="small dim hide-small" style={{ padding: '0 4px' }}>{me.version}</span>}
      </div>
    </header>
  )
}

function useKeys(help: () => void) {
  const [, go] = useLocation()
  useEffect(() => {
    let g = 0
    const key = (e: KeyboardEvent) => {
      if (e.metaKey || e.ctrlKey || e.altKey || typing(e.target) || document.querySelector('dialog[open]')) return
      const place = Date.now() - g < 1500 ? places.find((p) => p.key === e.key) : undefined
      g = 0
      if (place) go(place.href)
      else if (e.key === 'g') g = Date.now()
      else if (e.key === '/') {
        const box = document.querySelector<HTMLInputElement>('[data-search]')
        if (!box) return
        box.focus()
        box.select()
      } else if (e.key === '?') help()
      else if (e.key === 't') toggleTheme()
      else return
      e.preventDefault()
    }
    window.addEventListener('keydown', key)
    return () => window.removeEventListener('keydown', key)
  }, [go, help])
}

function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard" onClose={onClose}>
      <div className="keys">
        {[
          ['/', 'search'],
          ['j  k', 'next and previous row'],
          ['Enter', 'open the row'],
          ...places.map((p) => [`g ${p.key}`, p.name.toLowerCase()]),
          ['n  N', 'next and previous hit in a log'],
          ['f', 'follow a log'],
          ['t', 'light or dark'],
          ['?', 'this help'],
        ].map(([k, what]) => (
          <div key={k} style={{ display: 'contents' }}>
            <span>
              <kbd className="key">{k}</kbd>
            </span>
            <span>{what}</span>
          </div>
        ))}
      </div>
    </Dialog>
  )
}

class Boundary extends Component<{ children: ReactNode }, { error?: Error }> {
  state: { error?: Error } = {}
  static getDerivedStateFromError(error: Error) {
    return { error }
  }
  render() {
    if (!this.state.error) return this.props.children
    return (
      <div className="page">
        <div className="card">
          <div className="empty" role="alert">
            <Mark tone="bad" shape="cross" big />
            <b>This page failed</b>
            <p>{this.state.error.message}</p>
            <button className="button" onClick={() => window.location.reload()}>
              Load it again
            </button>
          </div>
        </div>
      </div>
    )
  }
}
