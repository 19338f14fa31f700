import { describe, expect, it } from 'vitest'
import { APIError } from '../api'
import { readAll } from './read'

const text = new TextEncoder().encode('0123456789')

type Answer = { upTo: number; fails?: Error; over?: boolean; whole?: boolean } // over: the job is, after this answer; whole: the text says so itself

async function read(answers: Answer[], alive = true) {
  const asked: number[] = []
  const waited: number[] = []
  let got = ''
  let error: unknown
  let whole = false
  const source = {
    alive: () => alive,
    over: () => whole,
    wait: async (ms: number) => void waited.push(ms),
    open: async (offset: number) =>
      (async function* () {
        const a = answers[asked.length]!
        asked.push(offset)
        if (a.upTo > offset) yield text.slice(offset, a.upTo)
        if (a.over) alive = false
        if (a.whole) whole = true
        if (a.fails) throw a.fails
      })(),
  }
  await readAll(source, new AbortController().signal, (c) => (got += new TextDecoder().decode(c))).catch((err: unknown) => (error = err))
  return { asked, waited, got, error }
}

describe('readAll', () => {
  it('reads a log that is over once', async () => {
    expect(await read([{ upTo: 10 }], false)).toEqual({ asked: [0], waited: [], got: '0123456789', error: undefined })
  })
  it('goes on where a connection has ended, until the job is over', async () => {
    expect(await read([{ upTo: 4 }, { upTo: 7, fails: new TypeError('network error') }, { upTo: 10, over: true }, { upTo: 10 }])).toEqual({
      asked: [0, 4, 7, 10],
      waited: [1000, 1000, 1000],
      got: '0123456789',
      error: undefined,
    })
  })
  it('asks no more when the text has said that it is whole', async () => {
    expect(await read([{ upTo: 4 }, { upTo: 10, whole: true }])).toEqual({ asked: [0, 4], waited: [1000], got: '0123456789', error: undefined })
  })
  it('waits longer each time while nobody answers', async () => {
    const away = { upTo: 0, fails: new APIError(0, 'The server does not answer.') }
    const got = await read([away, away, away, away, away, away, { upTo: 10, over: true }, { upTo: 10 }])
    expect(got.waited).toEqual([1000, 2000, 4000, 8000, 15_000, 15_000, 1000])
    expect(got.got).toBe('0123456789')
  })
  it('does not ask again for what there is not', async () => {
    const none = new APIError(404, 'no such job')
    expect((await read([{ upTo: 0, fails: none }])).error).toBe(none)
  })
  it('tells why a log that is over cannot be read', async () => {
    const away = new APIError(0, 'The server does not answer.')
    expect((await read([{ upTo: 3, fails: away }], false)).error).toBe(away)
  })
})
