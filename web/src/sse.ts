// Server-sent events, read from a fetch: it sends the same headers as every other request.

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
  id = ''
  retry = 1000

  feed(text: string): SSEvent[] {
    const out: SSEvent[] = []
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/)
    this.rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line === '') {
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
      else if (field === 'id') this.id = value
      else if (field === 'retry' && /^\d+$/.test(value)) this.retry = Number(value)
    }
    return out
  }
}
