import type { ReactNode } from 'react'
import type { Shape, Tone } from './status'

const shapes: Record<Shape, ReactNode> = {
  check: (
    <>
      <circle cx="8" cy="8" r="7" fill="currentColor" />
      <path d="M4.8 8.200l2.2 2.2 4.2-4.5" stroke="var(--surface)" strokeWidth="1.7" fill="none" strokeLinecap="round" strokeLinejoin="round" />
    </>
  ),
  cross: (
    <>
      <path d="M5.1 1h5.800L15 5.100v5.800L10.9 15H5.100L1 10.900V5.100z" fill="currentColor" />
      <path d="M5.5 5.500l5 5m0-5l-5 5" stroke="var(--surface)" strokeWidth="1.7" strokeLinecap="round" />
    </>
  ),
  ring: (
    <>
      <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeOpacity=".28" strokeWidth="2.2" />
      <path className="turn" d="M8 2a6 6 0 0 1 6 6" fill="none" stroke="currentColor" strokeWidth="2.2" strokeLinecap="round" />
    </>
  ),
  clock: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
      <path d="M8 4.600V8l2.3 1.5" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round" />
    </>
  ),
  play: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
      <path d="M6.6 5.300v5.400L10.9 8z" fill="currentColor" />
    </>
  ),
  warn: (
    <>
      <path d="M8 1.400l7 12.700H1z" fill="currentColor" stroke="currentColor" strokeLinejoin="round" />
      <path d="M8 6v3.600m0 2.100v.1" stroke="var(--surface)" strokeWidth="1.7" strokeLinecap="round" />
    </>
  ),
  diff: (
    <>
      <path d="M8 .8L15.2 8 8 15.2.8 8z" fill="currentColor" />
      <path d="M5.4 6.800h5.200M5.4 9.600h5.2" stroke="var(--surface)" strokeWidth="1.6" strokeLinecap="round" />
    </>
  ),
  pause: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
      <path d="M6.4 5.600v4.800m3.2-4.800v4.8" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" />
    </>
  ),
  slash: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
      <path d="M4 12l8-8" stroke="currentColor" strokeWidth="1.6" />
    </>
  ),
  skip: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
      <path d="M5.3 5.700L7.6 8l-2.3 2.300M8.6 5.700L10.9 8l-2.3 2.3" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" strokeLinejoin="round" />
    </>
  ),
  ask: (
    <>
      <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" strokeDasharray="2.6 2.270" />
      <path d="M6.3 6.400a1.7 1.7 0 1 1 2.5 1.500c-.5.3-.8.6-.8 1.200m0 1.900v.1" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" />
    </>
  ),
  dot: <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />,
}

export function Mark({ tone, shape, big }: { tone: Tone; shape: Shape; big?: boolean }) {
  return (
    <svg className={`mark tone-${tone}${big ? ' big' : ''}`} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      {shapes[shape]}
    </svg>
  )
}

const lines = {
  apps: 'M3 3h5v5H3zM10 3h5v5h-5zM3 10h5v5H3zM10 10h5v5h-5z',
  pipelines: 'M4 5.500a1.8 1.8 0 1 0 0-.1M14 9a1.8 1.8 0 1 0 0-.1M4 13.500a1.8 1.8 0 1 0 0-.1M5.9 5.400c4 0 2.4 3.6 6.2 3.600M5.9 13.500c4 0 2.4-4.5 6.2-4.5',
  environments: 'M2.5 12.500L9 16l6.5-3.500M2.5 9L9 12.5 15.5 9M9 2L2.5 5.5 9 9l6.5-3.500z',
  drift: 'M3 6h9.500m0 0L10 3.500M12.5 6L10 8.500M15 12H5.500m0 0L8 9.500M5.5 12L8 14.5',
  audit: 'M5 2.500h6l3.5 3.500v9.500h-9.500zM11 2.500V6h3.500M7.5 9.500h4.500M7.5 12.300h4.5',
  sources: 'M9 2.500v7m0 0a2.5 2.5 0 1 0 .1 0M9 14.500v1.500M4 5h10',
  history: 'M3 9a6 6 0 1 0 2-4.500L3 6.300M3 3v3.300h3.300M9 5.800V9l2.3 1.5',
  search: 'M7.5 12.500a5 5 0 1 0 0-10 5 5 0 0 0 0 10zM11.3 11.300L15.5 15.5',
  sun: 'M9 12.500a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM9 1.500v1.500M9 15v1.500M1.5 9H3M15 9h1.500M3.7 3.700l1 1M13.3 13.300l1 1M3.7 14.300l1-1M13.3 4.700l1-1',
  moon: 'M15 10.500A6.5 6.5 0 0 1 7.5 3a6.5 6.5 0 1 0 7.5 7.500z',
  help: 'M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14zM7 7.200a2 2 0 1 1 3 1.700c-.6.4-1 .8-1 1.500m0 2.200v.1',
  out: 'M7 3H3.500v12H7M11.5 12L14.5 9l-3-3M14 9H7',
  play: 'M5.5 3.500v11L14.5 9z',
  retry: 'M14.5 9a5.5 5.5 0 1 1-1.7-4l1.7 1.600M14.5 3v3.600h-3.6',
  stop: 'M5 5h8v8H5z',
  back: 'M7 4L2.5 8.5 7 13M3 8.500h7.500a4 4 0 0 1 0 8H9',
  sync: 'M3 9a6 6 0 0 1 10.3-4.200L15 6.500M15 3v3.500h-3.500M15 9a6 6 0 0 1-10.3 4.200L3 11.500M3 15v-3.500h3.5',
  pause: 'M6.5 4v10M11.5 4v10',
  download: 'M9 2.500v8.500m0 0l-3.5-3.500M9 11l3.5-3.500M3 13.500V15.500h12v-2',
  down: 'M9 3v11m0 0l-4-4m4 4l4-4',
  up: 'M9 15V4m0 0L5 8m4-4l4 4',
  file: 'M5 2.500h5l3.5 3.500v9.500H5zM10 2.500V6h3.5',
  link: 'M7 11L11.5 6.500M8 4.500l1.5-1.500a3 3 0 0 1 4.5 4.500L12.5 9M10 13.500L8.5 15A3 3 0 0 1 4 10.500L5.5 9',
} as const

export type IconName = keyof typeof lines

export function Icon({ name }: { name: IconName }) {
  return (
    <svg className="line-icon" viewBox="0 0 18 18" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true" focusable="false">
      <path d={lines[name]} />
    </svg>
  )
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" fill="#0b6b74" />
      <path d="M6 15c2.5 7 6.5 9.5 10 9.500S23.5 22 26 15M16 7v17M11 12v9.500M21 12v9.5" fill="none" stroke="#fff" strokeWidth="2.2" strokeLinecap="round" />
    </svg>
  )
}
