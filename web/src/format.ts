// How times, sizes and revisions are written.

/** A time span in its largest unit, as kubectl has it; seconds. */
export function span(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds))
  if (s < 120) return `${s}s`
  if (s < 2 * 3600) return `${Math.floor(s / 60)}m`
  if (s < 48 * 3600) return `${Math.floor(s / 3600)}h`
  return `${Math.floor(s / 86400)}d`
}

/** How long ago a time was; empty for none. */
export function age(time: string | undefined, now = Date.now()): string {
  const t = at(time)
  return t === undefined ? '' : span((now - t) / 1000)
}

/** Milliseconds of a time; none for what is missing or Go's zero time. */
export function at(time: string | undefined): number | undefined {
  if (!time || time.startsWith('0001-')) return undefined
  const t = Date.parse(time)
  return Number.isNaN(t) ? undefined : t
}

let clocks: Intl.DateTimeFormat | undefined // making one takes longer than drawing a row

/** A time as the reader's place has it. */
export function clock(time: string | undefined): string {
  const t = at(time)
  clocks ??= new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
  return t === undefined ? '' : clocks.format(t)
}

/** How long something took, or takes until now: 1m 05s. */
export function took(from: string | undefined, to: string | undefined, now = Date.now()): string {
  const a = at(from)
  if (a === undefined) return ''
  const s = Math.max(0, Math.round(((at(to) ?? now) - a) / 1000))
  if (s < 60) return `${s}s`
  const m = Math.floor(s / 60)
  if (m < 60) return `${m}m ${String(s % 60).padStart(2, '0')}s`
  return `${Math.floor(m / 60)}h ${String(m % 60).padStart(2, '0')}m`
}

/** A revision in its parts: main@sha1:8fddee6… gives main and 8fddee6. */
export function revision(text: string | undefined): { ref: string; sha: string; short: string } {
  if (!text) return { ref: '', sha: '', short: '' }
  const m = /^(?:(.*)@)?(?:sha1|sha256):([0-9a-f]{7,})$/.exec(text)
  if (m) return { ref: m[1] ?? '', sha: m[2]!, short: m[2]!.slice(0, 7) }
  if (/^[0-9a-f]{40}$/.test(text)) return { ref: '', sha: text, short: text.slice(0, 7) }
  return { ref: text, sha: '', short: '' }
}

export function bytes(n: number): string {
  if (n < 1024) return `${n} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  let v = n
  let i = -1
  do {
    v /= 1024
    i++
  } while (v >= 1024 && i < units.length - 1)
  return `${v < 10 ? v.toFixed(1) : Math.round(v)} ${units[i]}`
}

export function plural(n: number, one: string, many = one + 's'): string {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`
}

/** A text in which the ids of commits are as short as people write them. */
export function shortened(text: string): string {
  return text.replace(/\b[0-9a-f]{40}(?:[0-9a-f]{24})?\b/g, (id) => id.slice(0, 7))
}
