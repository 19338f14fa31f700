import { describe, expect, it } from 'vitest'
import { jobSize, pipelineLayout, treeLayout, treeStep } from './layout'

describe('tree', () => {
  const cases: Record<string, [nodes: { id: string; parent?: string }[], want: Record<string, [column: number, row: number]>]> = {
    nothing: [[], {}],
    'one node': [[{ id: 'a' }], { a: [0, 0] }],
    'a parent is in the middle of its children': [
      [{ id: 'a' }, { id: 'b', parent: 'a' }, { id: 'c', parent: 'a' }, { id: 'd', parent: 'a' }],
      { a: [0, 1], b: [1, 0], c: [1, 1], d: [1, 2] },
    ],
    'deeper ones': [
      [{ id: 'a' }, { id: 'b', parent: 'a' }, { id: 'c', parent: 'b' }, { id: 'd', parent: 'b' }, { id: 'e', parent: 'a' }],
      { a: [0, 1.25], b: [1, 0.5], c: [2, 0], d: [2, 1], e: [1, 2] },
    ],
    'a missing parent makes a root': [[{ id: 'a' }, { id: 'b', parent: 'gone' }], { a: [0, 0], b: [0, 1] }],
    'a circle is cut': [[{ id: 'a', parent: 'b' }, { id: 'b', parent: 'a' }], { a: [0, 0], b: [1, 0] }],
    'its own parent': [[{ id: 'a', parent: 'a' }], { a: [0, 0] }],
  }
  for (const [name, [nodes, want]] of Object.entries(cases)) {
    it(name, () => {
      const got = Object.fromEntries(treeLayout(nodes).placed.map((p) => [p.node.id, [p.x / treeStep.x, p.y / treeStep.y]]))
      expect(got).toEqual(want)
    })
  }
  it('no two nodes of a column touch', () => {
    const nodes = Array.from({ length: 300 }, (_, i) => ({ id: String(i), parent: i === 0 ? undefined : String(Math.floor((i - 1) / 3)) }))
    const columns = new Map<number, number[]>()
    for (const p of treeLayout(nodes).placed) columns.set(p.x, [...(columns.get(p.x) ?? []), p.y])
    for (const ys of columns.values()) {
      ys.sort((a, b) => a - b)
      for (let i = 1; i < ys.length; i++) expect(ys[i]! - ys[i - 1]!).toBeGreaterThanOrEqual(treeStep.y)
    }
  })
})

describe('pipeline', () => {
  it('has a column for each stage, and edges for needs only', () => {
    const l = pipelineLayout(
      ['build', 'test'],
      [
        { name: 'compile', stage: 'build' },
        { name: 'lint', stage: 'build' },
        { name: 'unit', stage: 'test', dag: true, needs: ['compile'] },
        { name: 'e2e', stage: 'test' },
      ],
    )
    expect(l.stages.map((s) => [s.name, s.x, s.jobs.map((j) => j.node.name)])).toEqual([
      ['build', 0, ['compile', 'lint']],
      ['test', jobSize.width + jobSize.gapX, ['unit', 'e2e']],
    ])
    expect(l.edges.map((e) => [e.from, e.to])).toEqual([['compile', 'unit']])
  })
  it('puts jobs near what they need', () => {
    const l = pipelineLayout(
      ['a', 'b'],
      [
        { name: 'a1', stage: 'a' },
        { name: 'a2', stage: 'a' },
        { name: 'needs a2', stage: 'b', needs: ['a2'] },
        { name: 'needs a1', stage: 'b', needs: ['a1'] },
      ],
    )
    expect(l.stages[1]!.jobs.map((j) => j.node.name)).toEqual(['needs a1', 'needs a2'])
  })
  it('shows jobs of stages that it does not know, and leaves out needs that are not there', () => {
    const l = pipelineLayout(['a'], [{ name: 'x', stage: 'late', needs: ['gone'] }])
    expect(l.stages.map((s) => s.name)).toEqual(['a', 'late'])
    expect(l.edges).toEqual([])
  })
})
