// How fast pages open in a real browser, each time with an empty cache:
//
//	node web/tests/speed.mjs < visits.json
//
// Visits are a list of {name, url, headers, ready, end, fetch, scroll}, of which each is made "rounds" times, in turn. For each it prints a line of JSON:
// milliseconds from the navigation to the frame that shows what the selector ready finds, and end, where there is one; the CPU time of the page's
// main thread in that time; the bytes and requests until then. fetch reads an address to its end in place of a page. scroll moves the list that it selects,
// a step each frame.
import { text } from 'node:stream/consumers'
import { start } from './browser.mjs'

const { rounds, visits } = JSON.parse(await text(process.stdin))
const browser = await start()

/** Runs in the page from its beginning: notes when what is looked for was in a frame. */
function look(wanted) {
  window.seen = {}
  const frame = () => {
    for (const [name, selector] of Object.entries(wanted)) {
      if (window.seen[name] === undefined && document.querySelector(selector)) {
        window.seen[name] = 0
        requestAnimationFrame(() => setTimeout(() => (window.seen[name] = performance.now()))) // behind the frame
      }
    }
    if (Object.keys(wanted).some((n) => !window.seen[n])) requestAnimationFrame(frame)
  }
  requestAnimationFrame(frame)
}

/** Runs in the page: scrolls, and gives the times between frames, and how many showed nothing where a row should be. */
async function scrollThrough({ selector, frames, step }) {
  const list = document.querySelector(selector)
  const box = list.getBoundingClientRect()
  const gaps = []
  let blank = 0
  let last = 0
  await new Promise((done) => {
    const frame = (now) => {
      if (last > 0) {
        gaps.push(now - last)
        if (document.elementFromPoint(box.left + 40, box.top + box.height / 2)?.closest(selector + ' > * > *') === null) blank++
      }
      last = now
      if (gaps.length === frames) return done()
      list.scrollTop += step
      requestAnimationFrame(frame)
    }
    requestAnimationFrame(frame)
  })
  return { gaps, blank, top: list.scrollTop }
}

/** Runs in the page: reads an address to its end. */
async function readAll(url) {
  const began = performance.now()
  const reader = (await fetch(url)).body.getReader()
  let size = 0
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return { took: performance.now() - began, size }
    size += value.length
  }
}

async function visit(v) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, extraHTTPHeaders: v.headers ?? {} })
  try {
    const page = await context.newPage()
    const debug = await context.newCDPSession(page)
    await debug.send('Performance.enable')
    const work = async () => {
      const all = Object.fromEntries((await debug.send('Performance.getMetrics')).metrics.map((m) => [m.name, m.value]))
      return { cpu: all.ThreadTime * 1000, nodes: all.Nodes }
    }
    const wanted = { ready: v.ready, ...(v.end && { end: v.end }) }
    if (v.ready) await page.addInitScript(look, wanted)
    await page.goto(v.url, { waitUntil: 'commit' })
    const out = { name: v.name }
    if (v.fetch) {
      Object.assign(out, await page.evaluate(readAll, v.fetch))
    } else {
      await page.waitForFunction((names) => names.every((n) => window.seen?.[n]), Object.keys(wanted), { timeout: 60_000, polling: 100 })
      Object.assign(out, await page.evaluate(() => {
        const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].filter((e) => e.startTime < window.seen.ready)
        return {
          ...window.seen,
          contentful: performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
          requests: all.length,
          bytes: all.reduce((n, e) => n + e.transferSize, 0),
          steps: all.map((e) => `${e.name.replace(location.origin, '')} ${Math.round(e.startTime)}-${Math.round(e.responseEnd)}`),
        }
      }), await work())
    }
    if (v.scroll) {
      const before = await work()
      const s = await page.evaluate(scrollThrough, v.scroll)
      const after = await work()
      Object.assign(out, { gaps: s.gaps, blank: s.blank, top: s.top, frame: (after.cpu - before.cpu) / s.gaps.length })
    }
    return out
  } finally {
    await context.close()
  }
}

for (let round = 0; round < rounds; round++) for (const v of visits) console.log(JSON.stringify(await visit(v)))
await browser.close()
