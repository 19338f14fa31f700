// Light or dark: as the system has it, until somebody chooses.
import { useSyncExternalStore } from 'react'

const key = 'keelson-theme'
const system = window.matchMedia('(prefers-color-scheme: dark)')
const watchers = new Set<() => void>()

function chosen(): string | null {
  try {
    return localStorage.getItem(key)
  } catch {
    return null // the browser keeps nothing
  }
}

function current(): 'light' | 'dark' {
  const c = chosen()
  return c === 'light' || c === 'dark' ? c : system.matches ? 'dark' : 'light'
}

function apply() {
  document.documentElement.dataset.theme = current()
  for (const w of watchers) w()
}

system.addEventListener('change', apply)
apply()

export function toggleTheme() {
  const next = current() === 'dark' ? 'light' : 'dark'
  try {
    if (next === (system.matches ? 'dark' : 'light')) localStorage.removeItem(key)
    else localStorage.setItem(key, next)
  } catch {
    // it lasts for this page only
  }
  document.documentElement.dataset.theme = next
  for (const w of watchers) w()
}

export function useTheme(): 'light' | 'dark' {
  return useSyncExternalStore(
    (f) => (watchers.add(f), () => void watchers.delete(f)),
    () => (document.documentElement.dataset.theme === 'dark' ? 'dark' : 'light'),
  )
}
