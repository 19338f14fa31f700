// Pages that are loaded when somebody goes to them, or before that.
import { createElement, lazy, useState, type ComponentType, type FunctionComponent } from 'react'

export type Page = FunctionComponent & {
  /** Loads it, so that it is drawn at once. */
  load: () => Promise<void>
}

/** A page from a module of its own. One that is loaded is never waited for: React would show that it waits for a third of a second at least. */
export function page(get: () => Promise<{ default: ComponentType }>): Page {
  let here: ComponentType | undefined
  const later = lazy(get)
  function Shown() {
    const [what] = useState<ComponentType>(() => here ?? later) // the same as long as it is shown
    return createElement(what)
  }
  Shown.load = async () => {
    here ??= (await get()).default
  }
  return Shown
}
