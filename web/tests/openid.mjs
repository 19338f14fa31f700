// Logging in by an OpenID provider, in a real browser:
//
//   node web/tests/openid.mjs URL PROVIDER
//
// At the provider ann and bob have the passwords "of ann" and "of bob"; only ann is in a group that is let in.
import { visit } from './visit.mjs'

const [base, provider] = process.argv.slice(2)
const { page, step, expect, look, run } = await visit(base, { others: [provider] })

async function toProvider() {
  await page.getByRole('link', { name: 'Log in with your organisation' }).click()
  await page.waitForURL((url) => url.href.startsWith(provider))
}

async function identify(user, password) {
  await page.getByLabel('Name').fill(user)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Continue' }).click()
}

step('who is not let in', async () => {
  expect(/40[13]/)
  await page.goto(`${base}/history`)
  await page.waitForURL(/\/login\?next=/)
  await look('the login with a provider')
  await toProvider()
  await identify('bob', 'of bob')
  await page.getByRole('alert').getByText('bob@example.com is in none of the groups that are let in here').waitFor()
  await look('the login that failed')
})

step('who is let in', async () => {
  await toProvider()
  await identify('ann', 'guessed')
  await page.getByText('Wrong').waitFor() // the provider says so
  await identify('ann', 'of ann')
  await page.waitForURL(`${base}/history`) // where the way began
  await page.getByRole('heading', { name: 'History' }).waitFor()
  await page.getByText('oidc:ann@example.com').waitFor()
  await page.getByText('Live', { exact: true }).waitFor()
  expect()
})

step('with the rights that RBAC gives', async () => {
  await page.getByRole('link', { name: /^Apps/ }).click()
  await page.getByRole('link', { name: /tea/ }).waitFor()
  await page.getByRole('link', { name: /tea/ }).click()
  expect(/403/)
  await page.getByRole('button', { name: 'Suspend' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Suspend' }).click()
  await page.getByRole('alert').getByText('oidc:ann@example.com may not suspend').waitFor()
  await page.getByRole('button', { name: 'Not now' }).click()
  expect()
})

step('all of the instance is there', async () => {
  for (const [name, says] of [['Pipelines', 'No pipelines'], ['Environments', 'No environments'], ['History', 'No deliveries'], ['Drift', 'No repairs']]) {
    await page.getByRole('link', { name: new RegExp(`^${name}`) }).first().click()
    await page.getByText(says).waitFor()
  }
  expect(/403/)
  await page.getByRole('link', { name: /^Audit/ }).click()
  await page.getByText('oidc:ann@example.com may not get audits').waitFor() // it is not in her role
})

step('log out', async () => {
  expect(/40[13]/) // the way leads back to the audit, which she may not read
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.getByRole('link', { name: 'Log in with your organisation' }).waitFor()
  await look('the login after a logout')
  await toProvider()
  await identify('ann', 'of ann')
  await page.getByText('oidc:ann@example.com').waitFor()
})

await run()
