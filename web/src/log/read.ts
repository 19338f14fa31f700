// Reading a log to its end, over lost connections.
import { APIError, request } from '../api'
import { SSEParser, listen } from '../sse'

const longest = 15_000 // ms between two requests

type Chunks = AsyncIterable<Uint8Array>

/** What reads a log from an offset, and waits. */
export interface Source {
  open: (offset: number) => Promise<Chunks>
  /** Whether more may come after the text has ended. */
  alive: () => boolean
  /** Whether the text itself has said that it is whole. */
  over?: () => boolean
  wait: (ms: number) => Promise<void>
}

// Asking again does not help: there is no such log, or it may not be read.
function final(err: unknown): boolean {
  return err instanceof APIError && err.status >= 400 && err.status < 500 && err.status !== 429
}

/** Takes all of a log. While it is alive, an end is only that of a connection, as of a server that restarts: it is asked for what follows. */
export async function readAll(s: Source, signal: AbortSignal, take: (chunk: Uint8Array) => void) {
  let offset = 0
  let pause = 1000
  for (;;) {
    const last = !s.alive() // before it is asked: what comes then is all there is
    try {
      for await (const chunk of await s.open(offset)) {
        offset += chunk.length
        pause = 1000
        take(chunk)
      }
      if (last || s.over?.()) return
    } catch (err) {
      if (last || signal.aborted || final(err)) throw err
    }
    await s.wait(pause)
    signal.throwIfAborted()
    pause = Math.min(2 * pause, longest)
  }
}

const drawing = 250 // ms of reading between two times at which the page is let draw; at first it draws at once

/** The chunks of a text that a path has from an offset. The page is let draw between them. */
export async function* chunks(path: string, offset: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const from = offset === 0 ? path : `${path}${path.includes('?') ? '&' : '?'}offset=${offset}`
  const res = await request(from, { signal, headers: { Accept: 'text/plain' } })
  const reader = res.body!.getReader()
  let shown = 0 // when the page was last let draw
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    yield value
    if (performance.now() - shown > drawing) {
      await new Promise((r) => requestAnimationFrame(() => setTimeout(r)))
      shown = performance.now()
    }
  }
}

/** A log that comes as events. Each connection goes on behind the last line of the one before it, until the log says that it has ended. */
export class ToldLog {
  private last = ''
  over = false

  constructor(
    private path: string,
    private signal: AbortSignal,
  ) {}

  async *read(): AsyncGenerator<Uint8Array> {
    const parser = new SSEParser(this.last)
    const encoder = new TextEncoder()
    try {
      for await (const e of listen(this.path, parser, this.signal)) {
        if (e.name === 'text') yield encoder.encode((JSON.parse(e.data) as { text: string }).text)
        else if (e.name === 'end') this.over = true
      }
    } finally {
      this.last = parser.id
    }
  }
}
