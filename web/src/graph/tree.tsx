// The tree of an app's objects, down to its Pods.
import { Controls, Handle, Position, ReactFlow, type Edge, type Node, type NodeProps, type ReactFlowInstance } from '@xyflow/react'
import '@xyflow/react/dist/style.css'
import { createContext, memo, useContext, useEffect, useMemo, useRef } from 'react'
import type { TreeNode } from '../api'
import { Mark } from '../icons'
import { look, words } from '../status'
import { useTheme } from '../theme'
import { treeLayout } from './layout'

type ObjectNode = Node<{ object: TreeNode }, 'object'>

const Choice = createContext<{ chosen: string; choose: (id: string) => void }>({ chosen: '', choose: () => {} })

const Box = memo(function Box({ data }: NodeProps<ObjectNode>) {
  const { chosen, choose } = useContext(Choice)
  const o = data.object
  const l = o.health ? look(o.health) : ({ tone: 'idle', shape: 'dot' } as const) // most kinds have none
  return (
    <>
      <Handle type="target" position={Position.Left} isConnectable={false} />
      <button className={`tree-node nodrag ${l.tone === 'bad' ? 'tone-bad' : ''}`} aria-pressed={chosen === o.id} onClick={() => choose(o.id)} title={o.message}>
        <Mark {...l} />
        <span className="text">
          <Name text={o.name} />
          <span className="kind cut">
            {o.kind}
            {o.ready ? ` · ${o.ready}` : ''}
            <span className="hidden-text"> {words(o.health ?? 'without health')}</span>
          </span>
        </span>
      </button>
      <Handle type="source" position={Position.Right} isConnectable={false} />
    </>
  )
})

// A long name keeps its end: that is where Pods differ.
function Name({ text }: { text: string }) {
  const at = text.length > 22 ? text.length - 8 : text.length
  return (
    <span className="name row" style={{ gap: 0 }}>
      <span className="cut">{text.slice(0, at)}</span>
      <span className="nowrap">{text.slice(at)}</span>
    </span>
  )
}

const types = { object: Box }

const box = { width: 236, height: 52 }

const fit = { padding: 0.06, maxZoom: 1 }
const readable = 0.62 // zoom

/** Shows all of it, or, where that is too small to be read, what is chosen, or its beginning. */
function show(flow: ReactFlowInstance<ObjectNode> | null, chosen: string, width: number, height: number) {
  const nodes = flow?.getNodes() ?? []
  if (!flow || nodes.length === 0) return
  const all = flow.getNodesBounds(nodes)
  const room = 1 - 2 * fit.padding
  if (Math.min((width * room) / all.width, (height * room) / all.height) >= readable) return void flow.fitView(fit)
  const at = nodes.find((n) => n.id === chosen)
  const first = nodes.reduce((a, b) => (b.position.x < a.position.x ? b : a))
  const { x, y } = (at ?? first).position
  const left = at ? width / 2 - (x + box.width / 2) * readable : 14 - x * readable
  void flow.setViewport({ x: left, y: height / 2 - (y + box.height / 2) * readable, zoom: readable })
}

export default function Tree({ nodes, chosen, onChoose }: { nodes: TreeNode[]; chosen: string; onChoose: (id: string) => void }) {
  const theme = useTheme()
  const drawn = useMemo(() => {
    const { placed } = treeLayout(nodes)
    const ids = new Set(nodes.map((n) => n.id))
    const out: ObjectNode[] = placed.map((p) => ({
      id: p.node.id,
      type: 'object',
      position: { x: p.x, y: p.y },
      ...box,
      data: { object: p.node },
      focusable: false,
      style: { pointerEvents: 'all' }, // its button takes them
    }))
    const edges: Edge[] = nodes
      .filter((n) => n.parent !== undefined && ids.has(n.parent))
      .map((n) => ({ id: `${n.parent} ${n.id}`, source: n.parent!, target: n.id, type: 'smoothstep', pathOptions: { offset: 10, borderRadius: 8 }, focusable: false, selectable: false }))
    return { out, edges }
  }, [nodes])
  const flow = useRef<ReactFlowInstance<ObjectNode> | null>(null)
  const place = useRef<HTMLDivElement>(null)
  const chosenNow = useRef(chosen)
  useEffect(() => void (chosenNow.current = chosen), [chosen])
  const size = useRef({ width: 0, height: 0 })
  useEffect(() => {
    const seen = new ResizeObserver(([e]) => {
      if (!e) return
      const again = e.contentRect.width !== size.current.width
      size.current = e.contentRect
      if (again) show(flow.current, chosenNow.current, e.contentRect.width, e.contentRect.height)
    })
    seen.observe(place.current!)
    return () => seen.disconnect()
  }, [])
  const choice = useMemo(() => ({ chosen, choose: onChoose }), [chosen, onChoose])
  return (
    <Choice.Provider value={choice}>
      <div className="tree" ref={place}>
        <ReactFlow
          nodes={drawn.out}
          edges={drawn.edges}
          nodeTypes={types}
          colorMode={theme}
          onInit={(f) => {
            flow.current = f
            show(f, chosenNow.current, size.current.width || place.current!.clientWidth, size.current.height || place.current!.clientHeight)
          }}
          minZoom={0.1}
          maxZoom={1.5}
          nodesDraggable={false}
          nodesConnectable={false}
          elementsSelectable={false}
          edgesFocusable={false}
          nodesFocusable={false}
          onlyRenderVisibleElements
          proOptions={{ hideAttribution: true }}
          aria-label="Resource tree"
        >
          <Controls showInteractive={false} fitViewOptions={fit} position="bottom-left" orientation="horizontal" />
        </ReactFlow>
      </div>
    </Choice.Provider>
  )
}
