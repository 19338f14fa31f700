import { describe, expect, it } from 'vitest'
import { stale } from './live'
import { SSEParser } from './sse'

describe('SSEParser', () => {
  const text = 'retry: 500\n\nid: 7\nevent: job\ndata: {"id":1}\n\n: a comment\nid: 8\n\ndata: a\ndata: b\n\nevent: cut'
  for (const piece of [1, 2, 5, 1000]) {
    it(`reads ${piece} characters at a time`, () => {
      const p = new SSEParser()
      const out = []
      for (let i = 0; i < text.length; i += piece) out.push(...p.feed(text.slice(i, i + piece)))
      expect(out).toEqual([
        { name: 'job', data: '{"id":1}', id: '7' },
        { name: 'message', data: 'a\nb', id: '8' },
      ])
      expect(p.retry).toBe(500)
      expect(p.id).toBe('8')
    })
  }
  it('is not behind an event that has not come whole', () => {
    const p = new SSEParser('6')
    p.feed('id: 7\nevent: job\ndata: {"id"')
    expect(p.id).toBe('6')
  })
  it('takes the ends of lines of other systems', () => expect(new SSEParser().feed('event: x\r\ndata: 1\r\n\r\n')).toEqual([{ name: 'x', data: '1', id: '' }]))
})

it.each([
  ['pipeline', { kind: 'pipeline', id: 3 }, [['pipelines'], ['pipeline', 3]]],
  ['job', { kind: 'job', id: 4, pipeline: 3 }, [['pipeline', 3], ['job', 4], ['artifacts', 3]]],
  ['app', { kind: 'app', id: 'Kustomization/a/b' }, [['apps'], ['app', 'Kustomization/a/b'], ['matrix']]],
  ['ready', { kind: '', id: 0 }, []],
])('a change of a %s makes stale what shows it', (name, change, want) => expect(stale(name, change)).toEqual(want))
