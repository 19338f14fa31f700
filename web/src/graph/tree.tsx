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
  const l = look(o.health ?? 'Unknown')
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
            <span className="hidden-text"> {words(o.health ?? 'unknown')}</span>
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

const fit = { padding: 0.06, maxZoom: 1, minZoom: 0.4 }

export default function Tree({ nodes, chosen, onChoose }: { nodes: TreeNode[]; chosen: string; onChoose: (id: string) => void }) {
  const theme = useTheme()
  const drawn = useMemo(() => {
    const { placed } = treeLayout(nodes)
    const ids = new Set(nodes.map((n) => n.id))
    const out: ObjectNode[] = placed.map((p) => ({
      id: p.node.id,
      type: 'object',
      position: { x: p.x, y: p.y },
      width: 236,
      height: 52,
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
  useEffect(() => {
    let width = 0
    const seen = new ResizeObserver(([e]) => {
      if (e && width !== 0 && e.contentRect.width !== width) void flow.current?.fitView(fit)
      width = e?.contentRect.width ?? 0
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
          fitView
          fitViewOptions={fit}
          onInit={(f) => void (flow.current = f)}
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
          <Controls showInteractive={false} position="bottom-left" orientation="horizontal" />
        </ReactFlow>
      </div>
    </Choice.Provider>
  )
}
