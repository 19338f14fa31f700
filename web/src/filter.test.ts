import { describe, expect, it } from 'vitest'
import type { App } from './api'
import { listOf } from './apps'
import { matches, rows, type AppFilter } from './filter'

const app = (name: string, more: Partial<App> = {}): App => ({
  id: `Kustomization/flux-system/${name}`, kind: 'Kustomization', namespace: 'flux-system', name, state: 'Ready', source: '', path: `overlays/${name}`, objects: 1, ...more,
})
const dev = app('dev', { environment: 'dev', state: 'Failing' })
const prod = app('production', { environment: 'production', author: 'Ada Byron' })
const chart = app('redis', { kind: 'HelmRelease', namespace: 'data' })

describe('matches', () => {
  const cases: [string, AppFilter, string[]][] = [
    ['no filter', {}, ['dev', 'production', 'redis']],
    ['a word of the name', { q: 'prod' }, ['production']],
    ['several words anywhere', { q: 'OVERLAYS ada' }, ['production']],
    ['a state', { state: 'Failing' }, ['dev']],
    ['a kind', { kind: 'HelmRelease' }, ['redis']],
    ['a namespace and a word', { namespace: 'flux-system', q: 'dev' }, ['dev']],
    ['an environment', { environment: 'production' }, ['production']],
    ['nothing like that', { q: 'nothing' }, []],
  ]
  it.each(cases)('%s', (_, f, want) => expect([dev, prod, chart].filter((a) => matches(a, f)).map((a) => a.name)).toEqual(want))
})

describe('rows', () => {
  it('are the apps where there are no groups', () => expect(rows([dev, prod], '')).toEqual([{ app: dev }, { app: prod }]))
  it('have heads, the group without a name last', () =>
    expect(rows([chart, prod, dev], 'environment').map((r) => ('group' in r ? `${r.group || 'none'} ${r.count}` : r.app.name))).toEqual(['dev 1', 'dev', 'production 1', 'production', 'none 1', 'redis']))
})

it('counts states as if none were chosen', () => expect(listOf([dev, prod, chart], { state: 'Ready', namespace: 'flux-system' })).toMatchObject({ total: 1, counts: { Failing: 1, Ready: 1 } }))
