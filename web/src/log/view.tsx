// A log as it is written, however long it is: only the lines that are seen are in the page.
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, type CSSProperties } from 'react'
import { APIError } from '../api'
import { bytes, plural, span } from '../format'
import { Icon } from '../icons'
import { typing } from '../ui'
import { parse, plain, type Style } from './ansi'
import { Folds, LogLines, type Section } from './lines'
import { ToldLog, chunks, readAll } from './read'

const lineHeight = 20
const tallest = 15_000_000 // pixels that browsers scroll through without mistakes
const maxHits = 10_000

/** path: of the text, which ends when the log does. live: it may still grow. told: it comes as events; else the path takes an offset, from which it is read on. */
export function LogView({ path, name, live, told }: { path: string; name: string; live: boolean; told?: boolean }) {
  const lines = useRef<LogLines>(new LogLines())
  const [version, setVersion] = useState(0) // of what has come
  const [state, setState] = useState<'reading' | 'whole' | 'failed'>('reading')
  const [error, setError] = useState('')
  const [flipped, setFlipped] = useState<ReadonlySet<Section>>(new Set()) // sections that a reader has opened or closed
  const [following, setFollowing] = useState(live && !/^#L\d+$/.test(window.location.hash))
  const scroll = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [height, setHeight] = useState(600)
  const [target, setTarget] = useState(() => Number(/^#L(\d+)$/.exec(window.location.hash)?.[1] ?? 0) - 1)

  const alive = useRef(false)
  useEffect(() => {
    alive.current = live
  }, [live])
  useEffect(() => {
    const stop = new AbortController()
    lines.current = new LogLines()
    setState('reading')
    setError('')
    let frame = 0
    const show = () => {
      frame = 0
      lines.current.settle()
      setVersion((v) => v + 1)
    }
    void (async () => {
      try {
        const log = told ? new ToldLog(path, stop.signal) : undefined
        const source = {
          open: async (offset: number) => log?.read() ?? chunks(path, offset, stop.signal),
          alive: () => alive.current,
          over: () => !!log?.over,
          wait: (ms: number) => new Promise<void>((r) => setTimeout(r, ms)),
        }
        await readAll(source, stop.signal, (chunk) => {
          lines.current.append(chunk)
          frame ||= requestAnimationFrame(show)
        })
        setState('whole')
      } catch (err) {
        if (stop.signal.aborted) return
        setState('failed')
        setError(err instanceof APIError && err.status === 404 ? 'There is no log.' : err instanceof Error ? err.message : String(err))
      }
      show()
    })()
    return () => {
      stop.abort()
      cancelAnimationFrame(frame)
    }
  }, [path, told])

  const log = lines.current
  const shown = log.shown
  const closed = (s: Section) => s.collapsed !== flipped.has(s)
  const folds = useMemo(
    () => new Folds(log.sections.filter(closed).map((s) => [s.start + 1, s.end]), shown),
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [version, flipped, log],
  )
  const heads = useMemo(() => new Map(log.sections.map((s) => [s.start, s])), [version, log]) // eslint-disable-line react-hooks/exhaustive-deps

  // A scroll position is a share of all rows where they would be taller than a browser can scroll.
  const full = folds.rows * lineHeight
  const scaled = Math.min(full, tallest)
  const visible = Math.ceil(height / lineHeight)
  const most = Math.max(0, folds.rows - Math.floor(height / lineHeight))
  const ratio = scaled > height && full > tallest ? most / (scaled - height) : 1 / lineHeight
  const firstRow = Math.min(most, Math.max(0, top * ratio))
  const first = Math.floor(firstRow)
  const offset = full > tallest ? top : first * lineHeight

  const toRow = useCallback(
    (row: number) => {
      const el = scroll.current
      if (el) el.scrollTop = Math.max(0, row) / ratio
    },
    [ratio],
  )

  useLayoutEffect(() => {
    const el = scroll.current!
    const seen = new ResizeObserver(() => setHeight(el.clientHeight))
    seen.observe(el)
    setHeight(el.clientHeight)
    return () => seen.disconnect()
  }, [])
  useLayoutEffect(() => {
    if (following) scroll.current!.scrollTop = scroll.current!.scrollHeight
  }, [version, following, height, folds])

  const unfold = useCallback(
    (line: number) => {
      setFlipped((f) => {
        const next = new Set(f)
        for (const s of lines.current.sections) {
          if (line > s.start && line < s.end && s.collapsed !== f.has(s)) {
            if (f.has(s)) next.delete(s)
            else next.add(s)
          }
        }
        return next.size === f.size && [...next].every((s) => f.has(s)) ? f : next
      })
    },
    [setFlipped],
  )
  const [jump, setJump] = useState<number>()
  useEffect(() => {
    if (jump === undefined) return
    const row = folds.rowOf(jump)
    toRow(row - Math.floor(visible / 3))
    setJump(undefined)
  }, [jump, folds, toRow, visible])
  const goTo = useCallback(
    (line: number) => {
      setFollowing(false)
      unfold(line)
      setJump(line)
    },
    [unfold],
  )
  const went = useRef(false)
  useEffect(() => {
    if (target >= 0 && !went.current && shown > target) {
      went.current = true
      goTo(target)
    }
  }, [target, shown, goTo])

  const search = useSearch(log, version, goTo)
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.metaKey || e.ctrlKey || e.altKey || typing(e.target)) return
      if (e.key === 'n') search.step(1)
      else if (e.key === 'N') search.step(-1)
      else if (e.key === 'f') setFollowing((f) => !f)
      else return
      e.preventDefault()
    }
    window.addEventListener('keydown', key)
    return () => window.removeEventListener('keydown', key)
  })

  const rowsNow: { line: number; section?: Section }[] = []
  for (let r = first; r < Math.min(folds.rows, first + visible + 2); r++) {
    const line = folds.lineOf(r)
    rowsNow.push({ line, section: heads.get(line) })
  }
  const styles = stylesOf(log, rowsNow[0]?.line ?? 0)
  const hits = search.set
  let style = styles
  return (
    <section className="log" aria-label={`Log of ${name}`} data-state={state}>
      <div className="log-tools">
        <input
          className="input"
          type="search"
          data-search
          aria-label="Search the log"
          placeholder="Search the log"
          value={search.text}
          onChange={(e) => search.setText(e.target.value)}
          onKeyDown={(e) => {
            if (e.key === 'Enter') search.step(e.shiftKey ? -1 : 1)
            if (e.key === 'Escape') (search.setText(''), e.currentTarget.blur())
          }}
        />
        {search.text && (
          <span role="status">
            {search.busy && search.hits.length === 0 ? 'searching' : search.hits.length === 0 ? 'no hits' : `${search.at + 1} of ${search.hits.length}${search.hits.length === maxHits ? '+' : ''}`}
          </span>
        )}
        <span className="spacer" />
        <span className="hide-small">
          {plural(shown, 'line')} · {bytes(log.size)}
        </span>
        {(live || state === 'reading') && (
          <button className="button" aria-pressed={following} onClick={() => setFollowing(!following)}>
            Follow
          </button>
        )}
        <button className="button" aria-label="To the beginning" title="To the beginning" onClick={() => (setFollowing(false), toRow(0))}>
          <Icon name="up" />
        </button>
        <button className="button" aria-label="To the end" title="To the end" onClick={() => toRow(folds.rows)}>
          <Icon name="down" />
        </button>
        <a className="button" href={path.replace(/[?&]follow=1/, '')} download={`${name}.log`} aria-label="Download the log" title="Download">
          <Icon name="download" />
        </a>
      </div>
      <div
        className="log-scroll"
        ref={scroll}
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label="Lines"
        onScroll={(e) => {
          const el = e.currentTarget
          setTop(el.scrollTop)
          if (following && el.scrollTop + el.clientHeight < el.scrollHeight - 3 * lineHeight && el.scrollTop < top) setFollowing(false)
        }}
      >
        {shown === 0 && <div style={{ padding: 16, color: 'var(--log-dim)' }}>{state === 'failed' ? error : state === 'whole' ? 'The log is empty.' : live ? 'Nothing yet.' : 'Reading the log.'}</div>}
        <div className="log-inner" style={{ height: scaled }}>
          <div className="log-lines" style={{ transform: `translateY(${offset}px)` }}>
            {rowsNow.map(({ line, section }) => {
              const text = log.line(line)
              const p = parse(text, style)
              style = p.end
              return (
                <div key={line} className="log-line" data-hit={hits.has(line) ? (search.hits[search.at] === line ? 'now' : 'true') : undefined} data-target={line === target || undefined}>
                  <a href={`#L${line + 1}`} tabIndex={-1} onClick={() => setTarget(line)}>
                    {line + 1}
                  </a>
                  {section ? (
                    <button
                      className="log-fold"
                      aria-expanded={!closed(section)}
                      onClick={() => setFlipped((f) => {
                        const next = new Set(f)
                        if (!next.delete(section)) next.add(section)
                        return next
                      })}
                    >
                      {p.spans.map((s, i) => <Part key={i} text={s.text} style={s.style} />)}
                      {p.spans.length === 0 && section.name}
                      {section.to !== undefined && <span className="log-took">{span(section.to - section.from)}</span>}
                    </button>
                  ) : (
                    <span>{p.spans.map((s, i) => <Part key={i} text={s.text} style={s.style} />)}</span>
                  )}
                </div>
              )
            })}
          </div>
        </div>
      </div>
      {state === 'failed' && shown > 0 && <div className="log-tools" role="alert">{error}</div>}
    </section>
  )
}

// The style in which a line begins is the end of what comes before it, as far as it is worth looking.
function stylesOf(log: LogLines, line: number): Style {
  let style = plain
  for (let i = Math.max(0, line - 40); i < line; i++) style = parse(log.line(i), style).end
  return style
}

function Part({ text, style }: { text: string; style: Style }) {
  if (style === plain) return text
  const css: CSSProperties = {}
  const [fg, bg] = style.inverse ? [style.bg ?? 'bg', style.fg ?? 'fg'] : [style.fg, style.bg]
  if (fg) css.color = colour(fg)
  if (bg) css.backgroundColor = colour(bg)
  const names = (['bold', 'dim', 'italic', 'underline', 'strike'] as const).filter((n) => style[n]).map((n) => `a-${n}`)
  return (
    <span className={names.join(' ') || undefined} style={css}>
      {text}
    </span>
  )
}

const palette: Record<string, string> = {
  fg: 'var(--log-text)',
  bg: 'var(--log-bg)',
  black: '#6b7a89',
  red: '#ff8585',
  green: '#74d69b',
  yellow: '#e6c268',
  blue: '#82b1ff',
  magenta: '#d6a3f5',
  cyan: '#67cfd9',
  white: '#d5dde6',
}

function colour(name: string): string {
  return name.startsWith('#') ? name : palette[name.replace('bright-', '')]!
}

/** Searches a piece at a time, so that typing goes on. */
function useSearch(log: LogLines, version: number, goTo: (line: number) => void) {
  const [text, setText] = useState('')
  const [hits, setHits] = useState<number[]>([])
  const [at, setAt] = useState(0)
  const [busy, setBusy] = useState(false)
  const found = useRef({ text: '', log, from: 0, hits: [] as number[] })
  useEffect(() => {
    if (found.current.text !== text || found.current.log !== log) {
      found.current = { text, log, from: 0, hits: [] }
      setHits([])
      setAt(0)
    }
    if (text === '') return
    let timer: ReturnType<typeof setTimeout> | undefined
    setBusy(true)
    const piece = () => {
      const f = found.current
      const until = performance.now() + 12
      const before = f.hits.length
      const end = Math.max(0, log.shown - (log.shown === log.count ? 1 : 0)) // a last line may still grow
      const stop = log.shown
      while (f.from < stop && f.hits.length < maxHits && performance.now() < until) {
        const to = Math.min(stop, f.from + 16384)
        f.hits = f.hits.concat(log.search(text, f.from, to, maxHits - f.hits.length))
        f.from = to
      }
      if (f.hits.length !== before) {
        setHits(f.hits)
        if (before === 0 && f.hits[0] !== undefined) goTo(f.hits[0])
      }
      if (f.from < stop && f.hits.length < maxHits) timer = setTimeout(piece)
      else {
        f.from = Math.min(f.from, end)
        f.hits = f.hits.filter((h) => h < f.from || f.from === stop)
        setBusy(false)
      }
    }
    timer = setTimeout(piece, 60)
    return () => clearTimeout(timer)
  }, [text, log, version, goTo])
  const set = useMemo(() => new Set(hits), [hits])
  const step = (by: number) => {
    if (hits.length === 0) return
    const next = (at + by + hits.length) % hits.length
    setAt(next)
    goTo(hits[next]!)
  }
  return { text, setText, hits, set, at, busy, step }
}
