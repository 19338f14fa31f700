// Where the nodes of graphs are drawn. Pure: values in, places out.

export interface Placed<T> {
  node: T
  x: number
  y: number
}

/** Sizes of a tree that grows to the right; pixels. */
export const treeStep = { x: 284, y: 66 }

/**
 * A tidy tree: depth to the right, leaves below each other, parents in the middle of their children. Nodes whose parent is
 * missing are roots; a circle is cut where it closes.
 */
export function treeLayout<T extends { id: string; parent?: string }>(nodes: T[]): { placed: Placed<T>[]; width: number; height: number } {
  const byId = new Map(nodes.map((n) => [n.id, n]))
  const children = new Map<string, T[]>()
  const roots: T[] = []
  for (const n of nodes) {
    if (n.parent !== undefined && n.parent !== n.id && byId.has(n.parent)) {
      const list = children.get(n.parent)
      if (list) list.push(n)
      else children.set(n.parent, [n])
    } else roots.push(n)
  }
  const placed: Placed<T>[] = []
  const seen = new Set<string>()
  let leaf = 0
  let deepest = 0
  const place = (n: T, depth: number): number => {
    seen.add(n.id)
    deepest = Math.max(deepest, depth)
    const rows: number[] = []
    for (const c of children.get(n.id) ?? []) if (!seen.has(c.id)) rows.push(place(c, depth + 1))
    const row = rows.length === 0 ? leaf++ : (rows[0]! + rows[rows.length - 1]!) / 2
    placed.push({ node: n, x: depth * treeStep.x, y: row * treeStep.y })
    return row
  }
  for (const r of roots) place(r, 0)
  for (const n of nodes) if (!seen.has(n.id)) place(n, 0) // all in a circle
  return { placed, width: (deepest + 1) * treeStep.x, height: Math.max(1, leaf) * treeStep.y }
}

/** Sizes of a pipeline's graph; pixels. */
export const jobSize = { width: 204, height: 40, gapX: 40, gapY: 12, head: 40 }

export interface JobNode {
  name: string
  stage: string
  dag?: boolean
  needs?: string[]
}

export interface StageLayout<T> {
  stages: { name: string; x: number; jobs: Placed<T>[] }[]
  edges: { from: string; to: string; path: string }[]
  width: number
  height: number
}

/**
 * A pipeline as columns of stages. Edges are the needs of jobs that have some; where none has, those of stages say enough and
 * there are none. In a column jobs are near what they need, so that fewer edges cross.
 */
export function pipelineLayout<T extends JobNode>(stages: string[], jobs: T[]): StageLayout<T> {
  const order = [...stages]
  for (const j of jobs) if (!order.includes(j.stage)) order.push(j.stage)
  const row = new Map<string, number>()
  const at = new Map<string, { x: number; y: number }>()
  const out: StageLayout<T> = { stages: [], edges: [], width: 0, height: 0 }
  order.forEach((name, column) => {
    const x = column * (jobSize.width + jobSize.gapX)
    const mine = jobs.filter((j) => j.stage === name)
    const weight = new Map(
      mine.map((j, i) => {
        const rows = (j.needs ?? []).map((n) => row.get(n)).filter((r) => r !== undefined)
        return [j.name, rows.length === 0 ? i : rows.reduce((a, b) => a + b, 0) / rows.length]
      }),
    )
    const sorted = mine.map((j, i) => ({ j, i })).sort((a, b) => weight.get(a.j.name)! - weight.get(b.j.name)! || a.i - b.i)
    const placed = sorted.map(({ j }, i) => {
      row.set(j.name, i)
      const y = jobSize.head + i * (jobSize.height + jobSize.gapY)
      at.set(j.name, { x, y })
      return { node: j, x, y }
    })
    out.stages.push({ name, x, jobs: placed })
    out.height = Math.max(out.height, jobSize.head + placed.length * (jobSize.height + jobSize.gapY))
  })
  out.width = Math.max(0, order.length * (jobSize.width + jobSize.gapX) - jobSize.gapX)
  for (const j of jobs) {
    for (const n of j.needs ?? []) {
      const a = at.get(n)
      const b = at.get(j.name)
      if (a && b) out.edges.push({ from: n, to: j.name, path: curve(a, b) })
    }
  }
  return out
}

// How far edges of one stage go around their jobs; pixels.
const around = 24

function curve(a: { x: number; y: number }, b: { x: number; y: number }): string {
  const y1 = a.y + jobSize.height / 2
  const y2 = b.y + jobSize.height / 2
  if (a.x === b.x) { // of one stage: around the right side
    const x = a.x + jobSize.width
    return `M${x} ${y1} C${x + around} ${y1} ${x + around} ${y2} ${x} ${y2}`
  }
  const x1 = a.x + jobSize.width
  const x2 = b.x
  const mid = x2 - jobSize.gapX / 2
  return `M${x1} ${y1} H${Math.max(x1, mid - 20)} C${mid} ${y1} ${mid} ${y2} ${x2} ${y2}`
}
