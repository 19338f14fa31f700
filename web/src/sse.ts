// Server-sent events, read from a fetch: it sends the same headers as every other request.
import { request } from './api'

export interface SSEvent {
  name: string
  data: string
  id: string
}

/** Splits what comes into events. Feed gives those that are whole; the rest waits for more. */
export class SSEParser {
  private rest = ''
  private name = ''
  private data: string[] = []
  private next: string // the last id, once what it belongs to is whole
  retry = 1000

  /** id: of the last event that has come whole. */
  constructor(public id = '') {
    this.next = id
  }

  feed(text: string): SSEvent[] {
    const out: SSEvent[] = []
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/)
    this.rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line === '') {
        this.id = this.next
        if (this.data.length > 0) out.push({ name: this.name || 'message', data: this.data.join('\n'), id: this.id })
        this.name = ''
        this.data = []
        continue
      }
      const colon = line.indexOf(':')
      if (colon === 0) continue
      const field = colon < 0 ? line : line.slice(0, colon)
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
      if (field === 'event') this.name = value
      else if (field === 'data') this.data.push(value)
      else if (field === 'id') this.next = value
      else if (field === 'retry' && /^\d+$/.test(value)) this.retry = Number(value)
    }
    return out
  }
}

const silence = 45_000 // ms without a byte: the connection is lost. A server says something each 15 s.

/** The events of a stream, until its connection is lost. It goes on behind what the parser says was the last one, and the parser knows that then. */
export async function* listen(path: string, parser: SSEParser, signal: AbortSignal, opened?: () => void): AsyncGenerator<SSEvent> {
  const lost = new AbortController()
  let watch: ReturnType<typeof setTimeout> | undefined
  const heard = () => {
    clearTimeout(watch)
    watch = setTimeout(() => lost.abort(), silence)
  }
  heard()
  try {
    const headers: Record<string, string> = { Accept: 'text/event-stream' }
    if (parser.id !== '') headers['Last-Event-ID'] = parser.id
    const res = await request(path, { signal: AbortSignal.any([signal, lost.signal]), headers })
    opened?.()
    const reader = res.body!.pipeThrough(new TextDecoderStream()).getReader()
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      heard()
      yield* parser.feed(value)
    }
  } finally {
    clearTimeout(watch)
  }
}
