import { describe, expect, it } from 'vitest'
import { Folds, LogLines } from './lines'

const bytes = (text: string) => new TextEncoder().encode(text)
const logOf = (text: string, piece = Infinity) => {
  const log = new LogLines()
  const all = bytes(text)
  for (let i = 0; i < all.length; i += piece) log.append(all.subarray(i, i + Math.min(piece, all.length)))
  log.settle()
  return log
}
const linesOf = (log: LogLines) => Array.from({ length: log.shown }, (_, i) => log.line(i))

describe('lines', () => {
  const cases: Record<string, [text: string, lines: string[]]> = {
    nothing: ['', []],
    'a line without its end': ['a', ['a']],
    'two lines': ['a\nb\n', ['a', 'b']],
    'empty lines': ['\n\na\n', ['', '', 'a']],
    'characters of several bytes': ['für\n😀 ok\n', ['für', '😀 ok']],
  }
  for (const [name, [text, want]] of Object.entries(cases)) {
    for (const piece of [1, 3, Infinity]) it(`${name}, ${piece} bytes at a time`, () => expect(linesOf(logOf(text, piece))).toEqual(want))
  }

  it('are found over the borders of blocks', () => {
    const line = 'x'.repeat(1000)
    const n = 9000 // 9 MB: three blocks
    const log = logOf(Array.from({ length: n }, (_, i) => `${i} ${line}\n`).join(''), 777_777)
    expect(log.shown).toBe(n)
    for (const i of [0, 4150, 4151, 4152, 4153, 8343, 8344, 8345, n - 1]) expect(log.line(i)).toBe(`${i} ${line}`)
  })

  it('are cut where they are too long to show', () => expect(logOf('y'.repeat(100_000)).line(0)).toHaveLength(16384))
})

describe('sections', () => {
  const start = (name: string, t: number, head: string, options = '') => `section_start:${t}:${name}${options}\r\x1b[0K${head}\n`
  const end = (name: string, t: number) => `section_end:${t}:${name}\r\x1b[0K\n`
  const cases: Record<string, [text: string, want: [name: string, start: number, end: number, depth: number, seconds: number | undefined, collapsed: boolean][], lines: string[]]> = {
    'one section': [start('build', 10, 'Build') + 'a\nb\n' + end('build', 12) + 'c\n', [['build', 0, 4, 0, 2, false]], ['Build', 'a', 'b', '', 'c']],
    'one that is closed at first': [start('p', 1, 'P', '[collapsed=true]') + 'a\n' + end('p', 1), [['p', 0, 3, 0, 0, true]], ['P', 'a', '']],
    'an option with others': [start('p', 1, 'P', '[hide_duration=true,collapsed=true]') + end('p', 1), [['p', 0, 2, 0, 0, true]], ['P', '']],
    'within each other': [start('a', 1, 'A') + start('b', 2, 'B') + 'x\n' + end('b', 4) + end('a', 9), [['a', 0, 5, 0, 8, false], ['b', 1, 4, 1, 2, false]], ['A', 'B', 'x', '', '']],
    'one that is still open': [start('a', 1, 'A') + 'x\n', [['a', 0, 3, 0, undefined, false]], ['A', 'x']],
    'an end and a beginning on one line': [
      start('a', 1, 'A') + 'x\n' + 'section_end:2:a\r\x1b[0Ksection_start:3:b\r\x1b[0KB\ny\n' + end('b', 4),
      [['a', 0, 2, 0, 1, false], ['b', 2, 5, 0, 1, false]],
      ['A', 'x', 'B', 'y', ''],
    ],
    'an outer end closes what is in it': [start('a', 1, 'A') + start('b', 1, 'B') + end('a', 5), [['a', 0, 3, 0, 4, false], ['b', 1, 3, 1, 4, false]], ['A', 'B', '']],
    'an end of nothing': [end('x', 1) + 'a\n', [], ['', 'a']],
    'a marker behind an escape sequence': ['\x1b[0Ksection_start:5:s\r\x1b[0KS\nx\n\x1b[0Ksection_end:6:s\r\x1b[0K\n', [['s', 0, 3, 0, 1, false]], ['\x1b[0KS', 'x', '\x1b[0K']],
    'and behind a shorter one': ['\x1b[Ksection_start:5:s\r\x1b[0KS\n', [['s', 0, 2, 0, undefined, false]], ['\x1b[KS']],
    'text that only looks like one': ['section_start:x:y\nsection 5\n', [], ['section_start:x:y', 'section 5']],
  }
  for (const [name, [text, want, lines]] of Object.entries(cases)) {
    for (const piece of [1, Infinity]) {
      it(`${name}, ${piece} bytes at a time`, () => {
        const log = logOf(text, piece)
        expect(log.sections.map((s) => [s.name, s.start, s.end, s.depth, s.to === undefined ? undefined : s.to - s.from, s.collapsed])).toEqual(want)
        expect(linesOf(log)).toEqual(lines)
      })
    }
  }
})

describe('search', () => {
  const log = logOf('one\nTWO two\n\x1b[31mt\x1b[0mwo split by a colour\n10%\rtwo\rthree\nlast two')
  it('finds lines whatever their case, through colours, and not what was written over', () => expect(log.search('two', 0, log.shown, 100)).toEqual([1, 2, 4]))
  it('stops at its limit', () => expect(log.search('o', 0, log.shown, 2)).toHaveLength(2))
  it('finds nothing for nothing', () => expect(log.search('', 0, log.shown, 10)).toEqual([]))
})

describe('folds', () => {
  it('hide ranges, which may lie in each other', () => {
    const f = new Folds([[2, 5], [3, 4], [7, 9]], 10)
    expect(f.rows).toBe(5)
    expect([0, 1, 2, 3, 4].map((r) => f.lineOf(r))).toEqual([0, 1, 5, 6, 9])
    expect([0, 1, 2, 4, 5, 6, 8, 9].map((l) => f.rowOf(l))).toEqual([0, 1, 1, 1, 2, 3, 3, 4])
  })
  it('agree with a list of all lines', () => {
    const ranges: [number, number][] = [[0, 3], [10, 11], [11, 30], [25, 26], [90, 200]]
    const shown = Array.from({ length: 100 }, (_, i) => i).filter((l) => !ranges.some(([a, b]) => l >= a && l < b))
    const f = new Folds(ranges, 100)
    expect(f.rows).toBe(shown.length)
    expect(shown.map((_, r) => f.lineOf(r))).toEqual(shown)
    expect(shown.map((l) => f.rowOf(l))).toEqual(shown.map((_, r) => r))
  })
})

describe('a log of 100 MB', () => {
  it('is taken in and searched in less than a few seconds', () => {
    const piece = bytes(Array.from({ length: 10_000 }, (_, i) => `\x1b[32m${i}\x1b[0m some words that a job says while it works on something large\n`).join(''))
    const log = new LogLines()
    const begin = performance.now()
    while (log.size < 100e6) log.append(piece)
    log.settle()
    const took = performance.now() - begin
    expect(log.shown).toBeGreaterThan(1_000_000)
    expect(log.line(log.shown - 1)).toContain('9999')
    expect(took).toBeLessThan(2000) // a loaded machine; alone it is a quarter of a second
  })
})
