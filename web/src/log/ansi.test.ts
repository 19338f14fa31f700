import { describe, expect, it } from 'vitest'
import { parse, strip, visible } from './ansi'

const e = '\x1b['

describe('parse', () => {
  const cases: Record<string, [line: string, spans: [string, object][], end: object]> = {
    'text without styles': ['hello', [['hello', {}]], {}],
    'a colour and its end': [`a${e}31mred${e}0mb`, [['a', {}], ['red', { fg: 'red' }], ['b', {}]], {}],
    'bold with a colour, as GitLab writes it': [`${e}32;1m$ make${e}0;m`, [['$ make', { fg: 'green', bold: true }]], {}],
    'an empty code is a reset': [`${e}1mx${e}my`, [['x', { bold: true }], ['y', {}]], {}],
    'bright colours': [`${e}91;104mx`, [['x', { fg: 'bright-red', bg: 'bright-blue' }]], { fg: 'bright-red', bg: 'bright-blue' }],
    'one of 256 colours': [`${e}38;5;196mx`, [['x', { fg: '#ff0000' }]], { fg: '#ff0000' }],
    'a grey of 256 colours': [`${e}38;5;240mx`, [['x', { fg: '#585858' }]], { fg: '#585858' }],
    'true colour, with colons too': [`${e}38;2;1;2;3mx${e}48:2:255:0:9my`, [['x', { fg: '#010203' }], ['y', { fg: '#010203', bg: '#ff0009' }]], { fg: '#010203', bg: '#ff0009' }],
    'not bold any more': [`${e}1;3mx${e}22my`, [['x', { bold: true, italic: true }], ['y', { italic: true }]], { italic: true }],
    'movements and titles are left out': [`${e}2K${e}1Ga\x1b]0;title\x07b${e}?25lc`, [['abc', {}]], {}],
    'a link keeps its text': ['\x1b]8;;https://evil.example\x07text\x1b]8;;\x07', [['text', {}]], {}],
    'what was written over is gone': ['10%\r50%\r100%', [['100%', {}]], {}],
    'the end of a line from Windows': ['done\r', [['done', {}]], {}],
    'a style of what was written over stays': [`${e}31m10%\r20%`, [['20%', { fg: 'red' }]], { fg: 'red' }],
    'a lone escape': ['a\x1b', [['a', {}]], {}],
    'mark-up is text': ['<b>x</b>', [['<b>x</b>', {}]], {}],
  }
  for (const [name, [line, spans, end]] of Object.entries(cases)) {
    it(name, () => {
      const got = parse(line)
      expect(got.spans.map((s) => [s.text, s.style])).toEqual(spans)
      expect(got.end).toEqual(end)
    })
  }
  it('begins in the style of the line before', () => {
    expect(parse(`x${e}0my`, { fg: 'red' }).spans).toEqual([
      { text: 'x', style: { fg: 'red' } },
      { text: 'y', style: {} },
    ])
  })
})

describe('strip and visible', () => {
  it('leaves the text only', () => expect(strip(`${e}0Ka${e}31;1mb${e}0m\tc\x07`)).toBe('ab\tc'))
  it('keeps what is behind the last carriage return', () => expect(visible('a\rb\rc\r')).toBe('c'))
})
