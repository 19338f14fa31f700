// A browser for the tests: Debian's chromium, with a new profile, and nothing that it would ask the network for by itself.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

export const executable = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((f) => existsSync(f))

const program = {
  executablePath: executable,
  headless: true,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--disable-dev-shm-usage', '--force-color-profile=srgb', '--hide-scrollbars',
  ],
}

/** A browser in which each context begins with nothing. */
export const start = () => chromium.launch(program)

export async function launch(options = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'keelson-browser-'))
  const context = await chromium.launchPersistentContext(profile, {
    ...program,
    viewport: { width: 1280, height: 800 },
    colorScheme: 'light',
    ...options,
  })
  return {
    context,
    async close() {
      await context.close()
      rmSync(profile, { recursive: true, force: true })
    },
  }
}
