// The log of a Pod of a real node, in a real browser:
//
//   node web/tests/podlog.mjs URL TOKEN [DIRECTORY for screenshots]
//
// The container of the app kettle writes "boiling 1", "boiling 2" and so on.
import { visit } from './visit.mjs'

const [base, token, shots] = process.argv.slice(2)
const { page, step, expect, outside, loginWithToken, look, shot, run } = await visit(base, { shots })
const lines = page.getByLabel('Lines')

/** The last number that is shown. Line 1 is "the kettle is on", so line N + 1 is "boiling N" unless one is missing or there twice. */
async function boiling() {
  let last = 0
  for (const [, line, n] of (await lines.innerText()).matchAll(/(\d+)\s+boiling (\d+)/g)) {
    if (Number(line) !== Number(n) + 1) throw new Error(`line ${line} is "boiling ${n}"`)
    last = Number(n)
  }
  return last
}

/** Waits until there are some more lines than there were, which follow by themselves. */
async function goesOn() {
  const before = await boiling()
  for (const deadline = Date.now() + 60_000; (await boiling()) < before + 5; await page.waitForTimeout(200)) {
    if (Date.now() > deadline) throw new Error(`nothing comes behind line ${await boiling()}`)
  }
}

step('the tree', async () => {
  await loginWithToken(token)
  await page.getByRole('link', { name: /kettle/ }).click()
  const pod = page.locator('.tree-node', { hasText: 'Pod' })
  await pod.getByText('healthy').waitFor({ state: 'attached', timeout: 60_000 })
  await pod.click()
  await page.getByRole('complementary').getByText('Namespace').waitFor()
})

step('its log', async () => {
  await page.getByRole('button', { name: 'Log', exact: true }).click()
  await page.getByRole('heading', { name: /^Log of kettle-/ }).waitFor()
  await lines.getByText(/^boiling/).first().waitFor({ timeout: 60_000 })
  await look('the log of a Pod')
})

step('it follows', async () => {
  await goesOn()
  await shot('podlog')
})

step('over a lost connection', async () => {
  expect(/ERR_|Failed to fetch/)
  await outside('cut the connections')
  await goesOn()
})

step('over a container that is started anew', async () => {
  const search = page.getByLabel('Search the log')
  const status = page.getByRole('dialog').getByRole('status')
  await search.fill('the kettle is on') // the first line of a container
  await status.getByText('1 of 1', { exact: true }).waitFor()
  await outside('end the container')
  await status.getByText('1 of 2', { exact: true }).waitFor({ timeout: 60_000 })
  await search.fill('the kettle is cold') // the last one
  await status.getByText('1 of 1', { exact: true }).waitFor()
})

await run()
