// Small parts that all pages are made of.
import { useEffect, useRef, useState, useSyncExternalStore, type FormEvent, type ReactNode } from 'react'
import { Link, useLocation, useSearch } from 'wouter'
import { APIError, missing } from './api'
import { age, clock } from './format'
import { Icon, Mark, type IconName } from './icons'
import { look, words, type Shape, type Tone } from './status'

/** Any href of this dashboard. */
export { Link }

export function Badge({ status, as, text }: { status: string; as?: { tone: Tone; shape: Shape }; text?: string }) {
  const l = as ?? look(status)
  return (
    <span className={`badge tone-${l.tone}`}>
      <Mark {...l} />
      {text ?? words(status)}
    </span>
  )
}

/** A status where there is only room for its shape; its word is there for who cannot see it. */
export function Sign({ status, as, big }: { status: string; as?: { tone: Tone; shape: Shape }; big?: boolean }) {
  return (
    <span title={words(status)} className="nowrap">
      <Mark {...(as ?? look(status))} big={big} />
      <span className="hidden-text">{words(status)}</span>
    </span>
  )
}

let ticking: ReturnType<typeof setInterval> | undefined
let now = Date.now()
const tickers = new Set<() => void>()

function onTick(f: () => void): () => void {
  tickers.add(f)
  ticking ??= setInterval(() => {
    now = Date.now()
    for (const t of tickers) t()
  }, 1000)
  return () => {
    tickers.delete(f)
    if (tickers.size > 0) return
    clearInterval(ticking)
    ticking = undefined
  }
}

/** The time, anew every second. */
export function useNow(): number {
  return useSyncExternalStore(onTick, () => now)
}

export function Age({ time }: { time?: string }) {
  const n = useNow()
  const text = age(time, n)
  if (text === '') return null
  return (
    <time dateTime={time} title={clock(time)}>
      {text}
    </time>
  )
}

export function Sha({ sha }: { sha?: string }) {
  if (!sha) return null
  return <code title={sha}>{sha.slice(0, 7)}</code>
}

/** Who did something, with their initials. */
export function Person({ name }: { name?: string }) {
  if (!name) return null
  const initials = name
    .split(/[\s.@_-]+/)
    .filter(Boolean)
    .slice(0, 2)
    .map((w) => w[0])
    .join('')
  return (
    <span className="row" style={{ gap: 6 }}>
      <span className="avatar" aria-hidden="true">
        {initials}
      </span>
      <span className="cut">{name}</span>
    </span>
  )
}

export function Empty({ icon = 'apps', title, children }: { icon?: IconName; title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <Icon name={icon} />
      <b>{title}</b>
      {children && <p>{children}</p>}
    </div>
  )
}

/** What there is instead of something that could not be read. */
export function Problem({ error, what, retry }: { error: unknown; what: string; retry?: () => void }) {
  if (missing(error)) {
    return (
      <Empty icon="help" title={`There is no ${what} here`}>
        {error instanceof APIError && error.message !== '404 Not Found' ? error.message : `This server does not tell of it.`}
      </Empty>
    )
  }
  const message = error instanceof Error ? error.message : String(error)
  return (
    <div className="empty" role="alert">
      <Mark tone="bad" shape="cross" big />
      <b>Reading the {what} failed</b>
      <p>{message}</p>
      {retry && (
        <button className="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  )
}

export function Loading({ rows = 5, what }: { rows?: number; what: string }) {
  return (
    <div className="stack" style={{ padding: 16, gap: 12 }} role="status">
      <span className="hidden-text">Reading the {what}</span>
      {Array.from({ length: rows }, (_, i) => (
        <div key={i} className="skeleton" style={{ height: 20, width: `${94 - ((i * 17) % 40)}%` }} />
      ))}
    </div>
  )
}

export function Tabs({ tabs, now }: { tabs: { id: string; href: string; name: string; n?: number }[]; now: string }) {
  return (
    <nav className="tabs" aria-label="Parts of this page">
      {tabs.map((t) => (
        <Link key={t.id} href={t.href} aria-current={t.id === now ? 'page' : undefined}>
          {t.name}
          {t.n !== undefined && <span className="n">{t.n}</span>}
        </Link>
      ))}
    </nav>
  )
}

/** A value of the address, and what sets it; an empty one takes it out. */
export function useParam(name: string): [string, (value: string) => void] {
  const search = useSearch()
  const [path, go] = useLocation()
  const value = new URLSearchParams(search).get(name) ?? ''
  return [
    value,
    (next) => {
      const q = new URLSearchParams(window.location.search)
      if (next === '') q.delete(name)
      else q.set(name, next)
      const text = q.toString()
      go(text === '' ? path : `${path}?${text}`, { replace: true })
    },
  ]
}

/** A search field that tells what is typed once typing rests. */
export function SearchBox({ value, onChange, label }: { value: string; onChange: (text: string) => void; label: string }) {
  const [text, setText] = useState(value)
  const told = useRef(value)
  useEffect(() => {
    if (value !== told.current) {
      told.current = value
      setText(value)
    }
  }, [value])
  useEffect(() => {
    if (text === told.current) return
    const t = setTimeout(() => {
      told.current = text
      onChange(text)
    }, 160)
    return () => clearTimeout(t)
  })
  return (
    <div className="search">
      <Icon name="search" />
      <input
        className="input"
        type="search"
        data-search
        aria-label={label}
        placeholder={label}
        value={text}
        onChange={(e) => setText(e.target.value)}
        onKeyDown={(e) => {
          if (e.key === 'Escape') (setText(''), e.currentTarget.blur())
        }}
      />
      {text === '' && (
        <kbd className="key hide-small" aria-hidden="true">
          /
        </kbd>
      )}
    </div>
  )
}

export function Select({ label, value, onChange, options }: { label: string; value: string; onChange: (v: string) => void; options: [value: string, name: string][] }) {
  return (
    <select className="select" aria-label={label} value={value} onChange={(e) => onChange(e.target.value)}>
      {options.map(([v, name]) => (
        <option key={v} value={v}>
          {name}
        </option>
      ))}
    </select>
  )
}

/** Asks before something is done. What fails is said in it, and it stays open. */
export function Dialog({
  title,
  children,
  action,
  danger,
  wide,
  onDo,
  onClose,
}: {
  title: string
  children?: ReactNode
  action?: string
  danger?: boolean
  wide?: boolean
  onDo?: () => Promise<unknown>
  onClose: () => void
}) {
  const ref = useRef<HTMLDialogElement>(null)
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState('')
  useEffect(() => {
    const d = ref.current
    d?.showModal()
    return () => d?.close()
  }, [])
  const submit = async (e: FormEvent) => {
    e.preventDefault()
    if (!onDo) return onClose()
    setBusy(true)
    setError('')
    try {
      await onDo()
      onClose()
    } catch (err) {
      setError(err instanceof Error ? err.message : String(err))
      setBusy(false)
    }
  }
  return (
    <dialog ref={ref} className={wide ? 'wide' : undefined} onClose={onClose} aria-labelledby="dialog-title">
      <form onSubmit={(e) => void submit(e)}>
        <h2 className="head" id="dialog-title">
          {title}
        </h2>
        <div className="content">
          {children}
          {error && (
            <div className="banner tone-bad" role="alert">
              <Mark tone="bad" shape="cross" />
              <span>{error}</span>
            </div>
          )}
        </div>
        <div className="foot">
          <button type="button" className="button" onClick={onClose}>
            {action ? 'Not now' : 'Close'}
          </button>
          {action && (
            <button type="submit" className={`button primary${danger ? ' danger' : ''}`} disabled={busy}>
              {action}
            </button>
          )}
        </div>
      </form>
    </dialog>
  )
}

/** Rows of a list, one of which j and k choose and Enter opens. */
export function useRows(n: number, open: (i: number) => void): number {
  const [at, setAt] = useState(-1)
  const latest = useRef({ n, open, at })
  latest.current = { n, open, at }
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.metaKey || e.ctrlKey || e.altKey || typing(e.target) || document.querySelector('dialog[open]')) return
      const { n, open, at } = latest.current
      if (e.key === 'j') setAt(Math.min(n - 1, at + 1))
      else if (e.key === 'k') setAt(Math.max(0, at - 1))
      else if (e.key === 'Enter' && at >= 0 && at < n && !(e.target instanceof HTMLAnchorElement || e.target instanceof HTMLButtonElement)) open(at)
      else return
      e.preventDefault()
    }
    window.addEventListener('keydown', key)
    return () => window.removeEventListener('keydown', key)
  }, [])
  return at < n ? at : -1
}

export function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
}

export function useTitle(title: string) {
  useEffect(() => {
    document.title = title === '' ? 'Keelson' : `${title} · Keelson`
  }, [title])
}

interface Toast {
  id: number
  tone: Tone
  text: string
}
let toasts: Toast[] = []
let toastID = 0
const watchers = new Set<() => void>()

/** Says something at the edge of the page for a while. */
export function say(text: string, tone: Tone = 'ok') {
  const id = ++toastID
  toasts = [...toasts.slice(-3), { id, tone, text }]
  for (const w of watchers) w()
  setTimeout(() => {
    toasts = toasts.filter((t) => t.id !== id)
    for (const w of watchers) w()
  }, 6000)
}

export function Toasts() {
  const all = useSyncExternalStore(
    (f) => (watchers.add(f), () => void watchers.delete(f)),
    () => toasts,
  )
  return (
    <div className="toasts" role="status" aria-live="polite">
      {all.map((t) => (
        <div key={t.id} className="toast">
          <Mark tone={t.tone} shape={t.tone === 'bad' ? 'cross' : 'check'} />
          <span>{t.text}</span>
        </div>
      ))}
    </div>
  )
}
