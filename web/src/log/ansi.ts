// What a terminal would show of a line of a log: text in styles. All other control sequences are left out.

export interface Style {
  fg?: string // a name of the palette ("red", "bright-red"), or #rrggbb
  bg?: string
  bold?: boolean
  dim?: boolean
  italic?: boolean
  underline?: boolean
  inverse?: boolean
  strike?: boolean
}

export interface Span {
  text: string
  style: Style
}

export const plain: Style = Object.freeze({})

const palette = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white']

// CSI, OSC (ended by BEL or ST), other escapes, and single control characters but the tab.
// eslint-disable-next-line no-control-regex
const control = /\x1b\[([0-9;:?<=>]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f]/g

/** The text of a line without anything else. */
export function strip(line: string): string {
  return visible(line).replace(control, '')
}

/** What is left of a line that was written over: what comes behind its last carriage return. */
export function visible(line: string): string {
  const end = line.endsWith('\r') ? line.length - 1 : line.length
  const cr = line.lastIndexOf('\r', end - 1)
  return line.slice(cr + 1, end)
}

/** The spans of a line, and the style in which the next one begins. */
export function parse(line: string, start: Style = plain): { spans: Span[]; end: Style } {
  const spans: Span[] = []
  let style = start
  let from = 0
  const push = (text: string) => {
    if (text === '') return
    const last = spans[spans.length - 1]
    if (last && last.style === style) last.text += text
    else spans.push({ text, style })
  }
  const hidden = line.length - visible(line).length - (line.endsWith('\r') ? 1 : 0)
  const cut = Math.max(0, hidden)
  for (const m of line.matchAll(control)) {
    if (m.index > from) push(line.slice(Math.max(from, cut), Math.max(m.index, cut)))
    from = m.index + m[0].length
    if (m[2] === 'm' && !/[?<=>]/.test(m[1] ?? '')) style = sgr(m[1] ?? '', style)
  }
  push(line.slice(Math.max(from, cut)))
  return { spans, end: style }
}

function sgr(codes: string, style: Style): Style {
  const list = codes === '' ? [0] : codes.split(/[;:]/).map((c) => (c === '' ? 0 : Number(c)))
  let s: Style = { ...style }
  for (let i = 0; i < list.length; i++) {
    const c = list[i]!
    if (c === 0) s = {}
    else if (c === 1) s.bold = true
    else if (c === 2) s.dim = true
    else if (c === 3) s.italic = true
    else if (c === 4) s.underline = true
    else if (c === 7) s.inverse = true
    else if (c === 9) s.strike = true
    else if (c === 22) (delete s.bold, delete s.dim)
    else if (c === 23) delete s.italic
    else if (c === 24) delete s.underline
    else if (c === 27) delete s.inverse
    else if (c === 29) delete s.strike
    else if (c >= 30 && c <= 37) s.fg = palette[c - 30]
    else if (c === 39) delete s.fg
    else if (c >= 40 && c <= 47) s.bg = palette[c - 40]
    else if (c === 49) delete s.bg
    else if (c >= 90 && c <= 97) s.fg = 'bright-' + palette[c - 90]
    else if (c >= 100 && c <= 107) s.bg = 'bright-' + palette[c - 100]
    else if (c === 38 || c === 48) {
      const { colour, used } = extended(list, i + 1)
      i += used
      if (colour === undefined) continue
      if (c === 38) s.fg = colour
      else s.bg = colour
    }
  }
  return Object.keys(s).length === 0 ? plain : s
}

function extended(list: number[], i: number): { colour?: string; used: number } {
  if (list[i] === 5) return { colour: indexed(list[i + 1] ?? 0), used: 2 }
  if (list[i] === 2) return { colour: hex(list[i + 1] ?? 0, list[i + 2] ?? 0, list[i + 3] ?? 0), used: 4 }
  return { used: 1 }
}

function indexed(n: number): string {
  if (n < 8) return palette[n]!
  if (n < 16) return 'bright-' + palette[n - 8]!
  if (n >= 232) {
    const v = 8 + (Math.min(n, 255) - 232) * 10
    return hex(v, v, v)
  }
  const step = (v: number) => (v === 0 ? 0 : 55 + v * 40)
  const c = n - 16
  return hex(step(Math.floor(c / 36)), step(Math.floor(c / 6) % 6), step(c % 6))
}

function hex(r: number, g: number, b: number): string {
  return '#' + [r, g, b].map((v) => Math.max(0, Math.min(255, v | 0)).toString(16).padStart(2, '0')).join('')
}
