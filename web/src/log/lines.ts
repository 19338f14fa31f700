// A log as bytes, its lines found while they come in. Nothing is decoded but what is shown or searched: a log of 100 MB is bytes and one number a line.
import { strip } from './ansi'

const blockBits = 22 // 4 MiB
const blockSize = 1 << blockBits

export interface Section {
  name: string
  start: number // the line with its head
  end: number // the line behind it; that of the last one that has come while it is open
  depth: number
  from: number // seconds
  to?: number // undefined: it is open
  collapsed: boolean // as its writer asks for
}

// section_start:1560896352:name[collapsed=true]\r\e[0KHead
const marker = /section_(start|end):(\d{1,12}):([A-Za-z0-9_.-]{1,256})(?:\[([^\]\r\n]*)\])?\r(?:\x1b\[0K)?/g // eslint-disable-line no-control-regex

export class LogLines {
  private blocks: Uint8Array[] = []
  private starts = new Float64Array(1024) // of lines, in bytes
  private open: Section[] = []
  private decoder = new TextDecoder()
  size = 0 // bytes
  count = 1 // lines, the last one may still grow
  sections: Section[] = []

  /** Takes what has come. */
  append(chunk: Uint8Array) {
    let from = 0
    while (from < chunk.length) {
      const at = this.size & (blockSize - 1)
      if (at === 0) this.blocks.push(new Uint8Array(blockSize))
      const n = Math.min(blockSize - at, chunk.length - from)
      const part = chunk.subarray(from, from + n)
      this.blocks[this.blocks.length - 1]!.set(part, at)
      const base = this.size
      this.size += n
      for (let i = part.indexOf(10); i >= 0; i = part.indexOf(10, i + 1)) this.newline(base + i + 1)
      from += n
    }
  }

  private newline(start: number) {
    const line = this.count - 1
    if (this.mayMark(this.starts[line]!)) this.mark(line, start)
    if (this.count === this.starts.length) {
      const more = new Float64Array(this.starts.length * 2)
      more.set(this.starts)
      this.starts = more
    }
    this.starts[this.count++] = start
  }

  private byte(at: number): number {
    return this.blocks[at >>> blockBits]?.[at & (blockSize - 1)] ?? 0
  }

  // A marker is at a line's beginning, perhaps behind the sequence that clears the line: s…, ESC[0Ks…, ESC[Ks…
  private mayMark(at: number): boolean {
    let i = at
    if (this.byte(i) === 0x1b) {
      if (this.byte(i + 1) !== 0x5b) return false
      i += this.byte(i + 2) === 0x30 ? 3 : 2
      if (this.byte(i++) !== 0x4b) return false
    }
    return this.byte(i) === 0x73 && this.byte(i + 1) === 0x65 && this.byte(i + 7) === 0x5f // s e … _
  }

  private mark(line: number, end: number) {
    const text = this.decode(this.starts[line]!, Math.min(end - 1, this.starts[line]! + 4096))
    if (!text.includes('section_')) return
    for (const m of text.matchAll(marker)) {
      const time = Number(m[2])
      if (m[1] === 'start') {
        if (this.open.length > 50) continue
        const s: Section = { name: m[3]!, start: line, end: line + 1, depth: this.open.length, from: time, collapsed: /(^|,)\s*collapsed=true/.test(m[4] ?? '') }
        this.sections.push(s)
        this.open.push(s)
        continue
      }
      const i = this.open.findLastIndex((s) => s.name === m[3])
      if (i < 0) continue
      for (const s of this.open.splice(i)) {
        s.to = time
        // The line of the end is the section's, unless it begins the next one.
        s.end = text.lastIndexOf('section_start:') > (m.index ?? 0) || strip(text.replace(marker, '')) !== '' ? line : line + 1
      }
    }
  }

  /** The lines of sections that are open end with what has come. */
  settle() {
    for (const s of this.open) s.end = this.count
  }

  /** A line as it was written, at most 16 KiB of it. */
  line(i: number): string {
    const from = this.starts[i] ?? this.size
    const to = i + 1 < this.count ? this.starts[i + 1]! - 1 : this.size
    return this.decode(from, Math.min(to, from + 16384)).replace(marker, '')
  }

  /** How many lines there are to show: a last one without text is none. */
  get shown(): number {
    return this.starts[this.count - 1] === this.size ? this.count - 1 : this.count
  }

  private decode(from: number, to: number): string {
    const a = from >>> blockBits
    const b = Math.max(from, to - 1) >>> blockBits
    if (to <= from) return ''
    if (a === b) return this.decoder.decode(this.blocks[a]!.subarray(from & (blockSize - 1), ((to - 1) & (blockSize - 1)) + 1))
    const bytes = new Uint8Array(to - from)
    let at = 0
    for (let n = a; n <= b; n++) {
      const part = this.blocks[n]!.subarray(n === a ? from & (blockSize - 1) : 0, n === b ? ((to - 1) & (blockSize - 1)) + 1 : blockSize)
      bytes.set(part, at)
      at += part.length
    }
    return this.decoder.decode(bytes)
  }

  /** Searches lines from..to for a text, whatever its case; gives those that have it. */
  search(text: string, from: number, to: number, limit: number): number[] {
    const out: number[] = []
    const want = text.toLowerCase()
    if (want === '') return out
    const end = Math.min(to, this.shown)
    for (let a = from; a < end && out.length < limit; a += 4096) {
      const b = Math.min(end, a + 4096)
      const raw = this.decode(this.starts[a]!, b < this.count ? this.starts[b]! : this.size)
      if (!raw.includes('\x1b') && !raw.includes('\r') && !raw.toLowerCase().includes(want)) continue
      const lines = raw.split('\n')
      for (let i = 0; i < b - a && out.length < limit; i++) {
        if (strip(lines[i]!.replace(marker, '')).toLowerCase().includes(want)) out.push(a + i)
      }
    }
    return out
  }
}

/** Which lines are in which rows when some are folded away. */
export class Folds {
  private from: number[] = [] // first lines of what is hidden
  private before: number[] = [] // lines hidden before each of them
  private length: number[] = []
  hidden = 0

  /** Each range is [first line, line behind it); they may overlap. */
  constructor(
    ranges: [number, number][],
    private lines: number,
  ) {
    let end = 0
    for (const [a, b] of ranges.filter(([a, b]) => b > a).sort((x, y) => x[0] - y[0])) {
      const first = Math.max(a, end)
      const last = Math.min(b, lines)
      if (last <= first) continue
      this.from.push(first)
      this.before.push(this.hidden)
      this.length.push(last - first)
      this.hidden += last - first
      end = last
    }
  }

  get rows(): number {
    return this.lines - this.hidden
  }

  lineOf(row: number): number {
    // the last range that begins at or before the row
    let lo = 0
    let hi = this.from.length
    while (lo < hi) {
      const mid = (lo + hi) >> 1
      if (this.from[mid]! - this.before[mid]! <= row) lo = mid + 1
      else hi = mid
    }
    return lo === 0 ? row : row + this.before[lo - 1]! + this.length[lo - 1]!
  }

  /** The row of a line, or of the last one shown before it. */
  rowOf(line: number): number {
    let lo = 0
    let hi = this.from.length
    while (lo < hi) {
      const mid = (lo + hi) >> 1
      if (this.from[mid]! <= line) lo = mid + 1
      else hi = mid
    }
    if (lo === 0) return line
    const i = lo - 1
    if (line < this.from[i]! + this.length[i]!) return Math.max(0, this.from[i]! - this.before[i]! - 1)
    return line - this.before[i]! - this.length[i]!
  }
}
