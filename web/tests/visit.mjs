// What every tour of the dashboard does: a browser, steps, and a look at each page. What is wrong with accessibility, errors in the console,
// requests to other places and breaches of the policy are failures of every page. Where something has to happen outside, a tour prints
// "do: WHAT" and waits for a line on its input.
import { readFileSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { launch } from './browser.mjs'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** Opens a browser for a dashboard. shots: the directory for screenshots, if any. others: where else its requests may go. */
export async function visit(base, { shots, others = [] } = {}) {
  const browser = await launch()
  const page = browser.context.pages()[0]
  page.setDefaultTimeout(30_000)
  const wrong = []
  const steps = []
  const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
  const known = [base, ...others, 'data:', 'blob:']
  let expected = () => false // failures of requests that belong to a step
  page.on('console', (m) => {
    if (m.type() === 'error' && !expected(m.text())) wrong.push(`console on ${page.url()}: ${m.text()} ${m.location().url}`)
  })
  page.on('pageerror', (e) => wrong.push(`error on ${page.url()}: ${e.stack ?? e.message}`))
  page.on('request', (r) => {
    if (!known.some((k) => r.url().startsWith(k))) wrong.push(`request to ${r.url()}`)
  })
  return {
    page,

    /** Adds a step. One that fails ends the tour. */
    step: (name, run) => steps.push([name, run]),

    /** Says which errors in the console belong to what comes; nothing: none any more. */
    expect(pattern) {
      expected = pattern ? (t) => pattern.test(t) : () => false
    },

    /** Has something done outside of the browser. */
    async outside(what) {
      console.log(`do: ${what}`)
      await answers.next()
    },

    /** Logs in with a user's password, at the page that whoever is not logged in is sent to. */
    async login(user, password) {
      await page.goto(`${base}/login`)
      await page.getByLabel('User').fill(user)
      await page.getByLabel('Password').fill(password)
      await page.getByLabel('Password').press('Enter')
    },

    /** Logs in with a token, at the same page. */
    async loginWithToken(token) {
      await page.goto(`${base}/login`)
      await page.getByText('With a token').click()
      await page.getByLabel('Token').fill(token)
      await page.getByLabel('Token').press('Enter')
    },

    /** Looks at a page as it is now: accessible, nothing beside the screen, in both sizes. */
    async look(name) {
      for (const width of [1280, 390]) {
        await page.setViewportSize({ width, height: width === 1280 ? 800 : 844 })
        await page.waitForTimeout(150) // lists and graphs take the new size
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
        if (wide > 0) wrong.push(`${name} at ${width}: ${wide} pixels are beside the screen`)
        for (const scheme of width === 1280 ? ['light', 'dark'] : ['light']) {
          await page.emulateMedia({ colorScheme: scheme })
          // The policy of the page forbids scripts that are not its own; the browser's protocol does not ask it.
          const found = await page.evaluate(`(async () => { ${axe}; return (await axe.run(document, { resultTypes: ['violations'] })).violations })()`)
          for (const v of found) wrong.push(`${name} at ${width}, ${scheme}: ${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} (${n.failureSummary?.split('\n')[1]?.trim()})`).join('; ')}`)
          if (shots && process.env.KEELSON_SCREENSHOTS_ALL) await page.screenshot({ path: join(shots, `${name.replaceAll(/\W+/g, '-')}-${width}-${scheme}.png`) })
        }
        await page.emulateMedia({ colorScheme: 'light' })
      }
      await page.setViewportSize({ width: 1280, height: 800 })
      console.log(`looked at ${name}`)
    },

    /** Takes a picture for docs/. */
    async shot(name) {
      if (!shots) return
      mkdirSync(shots, { recursive: true })
      await page.locator('.toast').first().waitFor({ state: 'detached' })
      await page.mouse.move(1270, 790)
      await page.waitForTimeout(400)
      await page.screenshot({ path: join(shots, name === 'overview' ? 'dashboard.png' : `dashboard-${name}.png`) })
    },

    /** Goes through the steps, and ends: with 0 when everything was as it should be, else it says what was not. */
    async run() {
      let failed = ''
      for (const [name, run] of steps) {
        try {
          await run()
          console.log(`ok: ${name}`)
        } catch (err) {
          failed = `${name}, on ${page.url()}: ${err.stack ?? err}\n${(await page.locator('body').innerText().catch(() => '')).replaceAll(/\s+/g, ' ')}`
          if (shots) await page.screenshot({ path: join(shots, 'failed.png') }).catch(() => {})
          break
        }
      }
      await browser.close()
      for (const w of wrong) console.error(`wrong: ${w}`)
      if (failed) console.error(`failed: ${failed}`)
      process.exit(failed || wrong.length > 0 ? 1 : 0)
    },
  }
}
