import { describe, expect, it } from 'vitest'
import type { App } from './api'
import { rows } from './filter'

const app = (name: string, more: Partial<App> = {}): App => ({
  id: `Kustomization/flux-system/${name}`, kind: 'Kustomization', namespace: 'flux-system', name, state: 'Ready', source: '', path: `overlays/${name}`, objects: 1, ...more,
})
const dev = app('dev', { environment: 'dev', state: 'Failing' })
const prod = app('production', { environment: 'production', author: 'Ada Byron' })
const chart = app('redis', { kind: 'HelmRelease', namespace: 'data' })

describe('rows', () => {
  it('are the apps where there are no groups', () => expect(rows([dev, prod], '')).toEqual([{ app: dev }, { app: prod }]))
  it('have heads, the group without a name last', () =>
    expect(rows([chart, prod, dev], 'environment').map((r) => ('group' in r ? `${r.group || 'none'} ${r.count}` : r.app.name))).toEqual(['dev 1', 'dev', 'production 1', 'production', 'none 1', 'redis']))
})
