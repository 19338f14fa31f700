// A person's way through the dashboard of a real instance, in a real browser:
//
//   node web/tests/tour.mjs URL TOKEN [DIRECTORY for screenshots]
//
// Where something has to happen outside, it prints "do: WHAT" and waits for a line on its input. It ends with 0 when everything was as it
// should be, else it says what was not. What is wrong with accessibility, errors in the console, requests to other places and
// breaches of the policy are failures of every page.
import { readFileSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { launch } from './browser.mjs'

const [base, token, shots] = process.argv.slice(2)
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const wrong = []

async function outside(what) {
  console.log(`do: ${what}`)
  await answers.next()
}

const browser = await launch()
const page = browser.context.pages()[0]
page.setDefaultTimeout(30_000)
let expected = () => false // failures of requests that belong to a step
page.on('console', (m) => {
  if (m.type() === 'error' && !expected(m.text())) wrong.push(`console on ${page.url()}: ${m.text()} ${m.location().url}`)
})
page.on('pageerror', (e) => wrong.push(`error on ${page.url()}: ${e.stack ?? e.message}`))
page.on('request', (r) => {
  if (!r.url().startsWith(base) && !r.url().startsWith('data:') && !r.url().startsWith('blob:')) wrong.push(`request to ${r.url()}`)
})

/** Looks at a page as it is now: accessible, nothing beside the screen, in both sizes. */
async function look(name) {
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
    }
    await page.emulateMedia({ colorScheme: 'light' })
  }
  await page.setViewportSize({ width: 1280, height: 800 })
  console.log(`looked at ${name}`)
}

async function shot(name) {
  if (!shots) return
  mkdirSync(shots, { recursive: true })
  await page.locator('.toast').first().waitFor({ state: 'detached' })
  await page.mouse.move(1270, 790)
  await page.waitForTimeout(400)
  await page.screenshot({ path: join(shots, name === 'overview' ? 'dashboard.png' : `dashboard-${name}.png`) })
}

const steps = []
/** Adds a step. One that fails ends the tour. */
export function step(name, run) {
  steps.push([name, run])
}

step('log in', async () => {
  await page.goto(base + '/?group=namespace')
  await page.waitForURL(/\/login\?next=/)
  await look('the login')
  await page.getByText('With a token').click()
  await page.getByLabel('Token').fill('wrong')
  expected = (t) => t.includes('401')
  await page.getByLabel('Token').press('Enter')
  await page.getByRole('alert').waitFor()
  await page.getByText('With a token').click()
  await page.getByLabel('Token').fill(token)
  await page.getByLabel('Token').press('Enter')
  await page.waitForURL(base + '/?group=namespace')
  await page.getByRole('heading', { name: 'Apps' }).waitFor()
  await page.getByText('Live', { exact: true }).waitFor()
  expected = () => false
  await page.getByLabel('Group by').selectOption('')
})

step('the overview', async () => {
  await page.getByRole('link', { name: /production/ }).waitFor()
  await page.keyboard.press('/')
  await page.keyboard.type('staging')
  await page.waitForURL(/q=staging/)
  await page.getByRole('link', { name: /overlays\/production/ }).waitFor({ state: 'detached' })
  await page.keyboard.press('Escape')
  await page.getByRole('link', { name: /overlays\/production/ }).waitFor()
  await page.getByLabel('Group by').selectOption('namespace')
  await page.waitForURL(/group=namespace/)
  await page.reload() // the address has it all
  await page.locator('.group-row').waitFor()
  await page.getByLabel('Group by').selectOption('')
  await look('the overview')
  await shot('overview')
})

step('a push arrives', async () => {
  const before = await page.locator('.app-row', { hasText: 'overlays/dev' }).locator('code').textContent()
  await outside('push the sample')
  await page.waitForFunction((old) => {
    const row = [...document.querySelectorAll('.app-row')].find((r) => r.textContent.includes('overlays/dev'))
    return row && row.querySelector('code')?.textContent !== old && row.textContent.includes('ready')
  }, before)
})

step('keys', async () => {
  await page.keyboard.press('j')
  await page.keyboard.press('j')
  await page.locator('.app-row[data-active=true]', { hasText: 'overlays/dev' }).waitFor()
  await page.keyboard.press('Enter')
  await page.waitForURL(/\/apps\/Kustomization\/flux-system\/dev/)
  await page.keyboard.press('g')
  await page.keyboard.press('p')
  await page.getByRole('heading', { name: 'Pipelines' }).waitFor()
  await page.keyboard.press('?')
  await page.getByRole('heading', { name: 'Keyboard' }).waitFor()
  await look('the help')
  await page.keyboard.press('Escape')
})

step('an app', async () => {
  await page.goto(base + '/apps/Kustomization/flux-system/dev')
  const pod = page.locator('.tree-node', { hasText: 'Pod' }).first()
  await pod.waitFor()
  await look('the tree of an app')
  await shot('app')
  await pod.click()
  await page.getByRole('complementary').getByText('Namespace').waitFor()
  await look('an object of an app')
  expected = (t) => /50[0-9]|40[49]/.test(t) // nodes that are not real have no logs
  await page.getByRole('button', { name: 'Log', exact: true }).click()
  await page.getByRole('heading', { name: /^Log of/ }).waitFor()
  await page.getByLabel('Lines').getByText(/./).first().waitFor()
  await page.keyboard.press('Escape')
  expected = () => false
  await page.getByRole('link', { name: 'Events' }).click()
  await page.locator('.timeline li').first().waitFor()
  await look('the events of an app')
  await page.getByRole('link', { name: /^Status/ }).click()
  await page.getByText('ReconciliationSucceeded').first().waitFor()
  await look('the status of an app')
})

step('a difference', async () => {
  await page.getByRole('button', { name: 'Suspend' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Suspend' }).click()
  await page.getByRole('button', { name: 'Resume' }).waitFor()
  await outside('change the backend of dev')
  await page.getByRole('link', { name: 'Diff' }).click()
  await page.getByText('Somebody was here').waitFor()
  await look('the diff of an app')
  await shot('diff')
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Resume' }).click()
  await page.getByRole('button', { name: 'Suspend' }).waitFor()
  await page.getByRole('button', { name: 'Sync' }).click()
  await page.getByRole('dialog').getByText(/ConfigMap\/backend|the cluster is as Git says/).waitFor()
  await look('the question before a sync')
  await page.getByRole('button', { name: 'Not now' }).click()
})

step('pipelines', async () => {
  await page.goto(base + '/pipelines')
  await page.getByRole('heading', { name: 'Pipelines' }).waitFor()
  await outside('push the shop')
  await page.getByRole('link', { name: /Sell tea/ }).first().waitFor()
  await look('the pipelines')
  await page.getByRole('link', { name: /Sell tea/ }).first().click()
  await page.getByRole('heading', { name: 'Sell tea' }).waitFor()
  await page.locator('.job-node', { hasText: 'deploy production' }).getByText('manual').waitFor({ timeout: 60_000 })
  await page.locator('.edges path').first().waitFor({ state: 'attached' })
  await look('a pipeline')
  await shot('pipeline')
})

step('a log', async () => {
  await page.getByRole('link', { name: /unit: \[cart\]/ }).click()
  await page.getByText('adds an article 1', { exact: true }).waitFor()
  const ok = page.locator('.log-line', { hasText: 'ok cart 1' }).locator('span > span').first()
  const colour = await ok.evaluate((e) => getComputedStyle(e).color)
  if (colour !== 'rgb(116, 214, 155)') throw new Error(`ok is ${colour}, and not green`)
  const fold = page.getByRole('button', { name: /Prepare the suite/ })
  if ((await fold.getAttribute('aria-expanded')) !== 'false') throw new Error('a section that asks for it is not closed')
  await fold.click()
  await page.getByText('fixture 1 of 40', { exact: true }).waitFor()
  await page.getByLabel('Search the log').fill('FIXTURE 39')
  await page.getByText('1 of 1', { exact: true }).waitFor()
  await page.getByText('fixture 39 of 40', { exact: true }).waitFor()
  await look('a job')
  await shot('job')
})

step('tests and artifacts', async () => {
  await page.goBack()
  await page.getByRole('link', { name: 'Tests', exact: true }).click()
  await page.getByRole('cell', { name: '0.4s' }).first().waitFor()
  await look('the tests')
  await page.getByRole('link', { name: 'Artifacts' }).click()
  await page.getByRole('button', { name: 'Files of compile' }).click()
  const link = page.getByRole('link', { name: 'out/shop' })
  const [download] = await Promise.all([page.waitForEvent('download'), link.click()])
  const content = readFileSync(await download.path(), 'utf8')
  if (!content.startsWith('binary of')) throw new Error(`the artifact holds ${content}`)
  await look('the artifacts')
})

step('a manual job is played', async () => {
  await page.getByRole('link', { name: 'Graph' }).click()
  await page.getByRole('button', { name: 'Play deploy production' }).click()
  await page.getByRole('heading', { name: 'Deploy the shop to production?' }).waitFor()
  await look('the question before a job is played')
  await page.getByRole('button', { name: 'Play', exact: true }).click()
  await page.locator('.job-node', { hasText: 'deploy production' }).getByText('success').waitFor({ timeout: 60_000 })
})

step('environments', async () => {
  await page.keyboard.press('g')
  await page.keyboard.press('e')
  await page.getByRole('link', { name: 'production', exact: true }).waitFor()
  await look('the environments')
  await shot('environments')
  await page.getByRole('button', { name: 'Stop staging' }).click()
  await page.getByRole('button', { name: 'Stop', exact: true }).click()
  await page.locator('article', { hasText: 'staging' }).getByText('stopped').waitFor({ timeout: 60_000 })
  await page.getByRole('link', { name: 'production', exact: true }).click()
  await page.getByText('is there', { exact: true }).waitFor()
  await look('an environment')
})

step('the other pages', async () => {
  for (const [path, name] of [['/sources', 'Sources'], ['/history', 'History'], ['/drift', 'Drift and repairs'], ['/audit', 'Audit'], ['/environments?view=matrix', 'Environments']]) {
    await page.goto(base + path)
    await page.getByRole('heading', { name, exact: true }).waitFor()
    await page.locator('.skeleton').first().waitFor({ state: 'detached' })
    await look(path)
  }
  expected = (t) => t.includes('404')
  await page.goto(base + '/nothing')
  await page.getByRole('heading', { name: 'No such page' }).waitFor()
  await look('no such page')
})

step('log out', async () => {
  expected = (t) => t.includes('401')
  await page.goto(base + '/')
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.waitForURL(/\/login\?next=/)
  await page.getByText('With a token').click()
  await page.getByLabel('Token').fill(token)
  await page.getByLabel('Token').press('Enter')
  await page.getByRole('heading', { name: 'Apps' }).waitFor()
  expected = () => false
})

step('dark', async () => {
  await page.goto(base + '/')
  await page.getByRole('button', { name: 'Dark colours' }).click()
  await page.reload()
  await page.getByRole('button', { name: 'Light colours' }).waitFor()
})

let failed = ''
for (const [name, run] of steps) {
  try {
    await run()
    console.log(`ok: ${name}`)
  } catch (err) {
    failed = `${name}, on ${page.url()}: ${err.stack ?? err}`
    if (shots) await page.screenshot({ path: join(shots, 'failed.png') }).catch(() => {})
    break
  }
}
await browser.close()
for (const w of wrong) console.error(`wrong: ${w}`)
if (failed) console.error(`failed: ${failed}`)
process.exit(failed || wrong.length > 0 ? 1 : 0)
