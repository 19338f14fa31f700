import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import react from '@vitejs/plugin-react'
import type { Plugin } from 'vite'
import { defineConfig } from 'vitest/config'

// The program sends files as they are kept: compressed.
function packed(): Plugin {
  let dir = ''
  return {
    name: 'packed',
    apply: 'build',
    configResolved: (c) => void (dir = join(c.root, c.build.outDir)),
    closeBundle() {
      for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' })) {
        if (!/\.(html|js|css|svg)$/.test(name)) continue
        const file = join(dir, name)
        writeFileSync(file + '.gz', gzipSync(readFileSync(file), { level: 9 }))
        rmSync(file)
      }
      writeFileSync(join(dir, 'README'), 'The dashboard is built into this directory by make build.\n')
    },
  }
}

// npx vite serves the sources; KEELSON_URL is the instance whose API they use.
export default defineConfig({
  plugins: [react(), packed()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    // What every page needs is one file: many small ones would be asked for one after the other.
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: 'base', test: /node_modules[\\/](react|react-dom|scheduler|wouter|regexparam|use-sync-external-store|@tanstack)[\\/]|[\\/]src[\\/][a-z]+\.tsx?$/ }] } } },
  },
  server: { proxy: { '/api': { target: process.env.KEELSON_URL ?? 'http://127.0.0.1:7070' } } },
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
})
