// Two texts beside each other, or below each other where there is no room. They live in a shadow root: the styles that the editor
// makes are adopted there, which the page's policy allows, and no style element is needed.
import { yaml } from '@codemirror/lang-yaml'
import { HighlightStyle, syntaxHighlighting } from '@codemirror/language'
import { MergeView, unifiedMergeView } from '@codemirror/merge'
import { EditorState, type Extension } from '@codemirror/state'
import { EditorView, lineNumbers } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { useEffect, useRef } from 'react'

const colours = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: 'var(--accent-text)' },
  { tag: [tags.string, tags.content], color: 'var(--text)' },
  { tag: [tags.number, tags.bool, tags.null], color: 'var(--run)' },
  { tag: [tags.comment, tags.meta], color: 'var(--dim)' },
])

const look = EditorView.theme({
  '&': { fontSize: '12.5px', backgroundColor: 'var(--surface)', color: 'var(--text)' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.55' },
  '.cm-gutters': { backgroundColor: 'var(--surface)', color: 'var(--dim)', border: 'none' },
  '.cm-changedLine, &.cm-merge-a .cm-changedLine': { backgroundColor: 'var(--bad-soft)' },
  '&.cm-merge-b .cm-changedLine, .cm-insertedLine': { backgroundColor: 'var(--ok-soft)' },
  '&.cm-merge-a .cm-changedText, .cm-deletedChunk .cm-deletedText': { background: 'color-mix(in srgb, var(--bad) 28%, transparent)' },
  '&.cm-merge-b .cm-changedText': { background: 'color-mix(in srgb, var(--ok) 28%, transparent)' },
  '.cm-deletedChunk': { backgroundColor: 'var(--bad-soft)' },
  '.cm-collapsedLines': { background: 'var(--sunken)', color: 'var(--soft)' },
  '.cm-collapsedLines::before, .cm-collapsedLines::after': { content: '"···"' },
})

const common: Extension[] = [
  lineNumbers(),
  yaml(),
  syntaxHighlighting(colours),
  look,
  EditorView.lineWrapping,
  EditorState.readOnly.of(true),
  EditorView.editable.of(false),
]

const collapse = { margin: 4, minSize: 6 }

export default function Merge({ before, after }: { before: string; after: string }) {
  const host = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const el = host.current!
    const root = el.shadowRoot ?? el.attachShadow({ mode: 'open' })
    const labelled = (label: string) => [...common, EditorView.contentAttributes.of({ 'aria-label': label, tabindex: '0' })]
    let view: { destroy(): void }
    if (window.matchMedia('(max-width: 900px)').matches) {
      view = new EditorView({
        doc: after,
        parent: root,
        root,
        extensions: [...labelled('What Git says, with what is live'), unifiedMergeView({ original: before, mergeControls: false, collapseUnchanged: collapse })],
      })
    } else {
      view = new MergeView({
        a: { doc: before, extensions: labelled('Live') },
        b: { doc: after, extensions: labelled('Git') },
        parent: root,
        root,
        collapseUnchanged: collapse,
        gutter: true,
      })
    }
    return () => view.destroy()
  }, [before, after])
  return (
    <>
      <div className="row small dim" style={{ padding: '6px 16px' }}>
        <span className="grow">In the cluster</span>
        <span className="grow">In Git</span>
      </div>
      <div ref={host} />
    </>
  )
}
