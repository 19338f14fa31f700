// The API as the dashboard uses it. Types are those of docs/api.md; what a server does not tell is missing.

export interface Me {
  name: string
  groups?: string[]
  csrf?: string
  login?: { password?: boolean; oidc?: string }
  version?: string
}

export interface Status {
  kind: string
  namespace: string
  name: string
  state: string
  reason?: string
  message?: string
  revision?: string
  since?: string
  created?: string
  warnings?: string[]
}

export interface App extends Status {
  id: string
  source: string
  path: string
  objects: number
  sync?: string
  health?: string
  environment?: string
  sha?: string
  author?: string
  title?: string
}

export interface Condition {
  type: string
  status: string
  reason?: string
  message?: string
  lastTransitionTime?: string
}

export interface Hold {
  object?: string
  owner?: string
  reason?: string
  until?: string
}

export interface AppDetail extends App {
  conditions?: Condition[]
  holds?: Hold[]
  spec?: { source?: string; path?: string; interval?: string; suspended?: boolean; targetNamespace?: string }
  dependsOn?: (string | { namespace?: string; name: string })[]
}

export interface Source extends Status {
  url: string
  ref: string
}

export interface TreeNode {
  id: string
  kind: string
  apiVersion?: string
  namespace?: string
  name: string
  parent?: string
  health?: string
  message?: string
  owned?: boolean
  created?: string
  ready?: string
}

export interface ObjectEvent {
  type: string
  reason: string
  message: string
  object: string
  count?: number
  first?: string
  last?: string
}

export interface ObjectDiff {
  kind: string
  namespace?: string
  name: string
  verb: string
  before: string
  after: string
  hidden?: boolean
}

export interface AppDiff {
  objects: ObjectDiff[] | null
  total?: number
  revision?: string
  applied?: string
  blocked?: string[]
  notes?: string[]
}

/** What has come of something that was asked of an app. */
export interface AppAsked {
  message?: string
  already?: boolean
  possible?: boolean
  to?: string
  diff?: AppDiff
}

export interface FieldChange {
  path: string
  before?: unknown
  after?: unknown
  secret?: boolean
}

export interface ObjectChange {
  kind: string
  namespace?: string
  name: string
  verb: string
  fields?: FieldChange[]
  more?: number
}

export interface Delivery {
  id: number | string
  app: { kind: string; namespace: string; name: string }
  environment?: string
  revision?: string
  sha?: string
  title?: string
  author?: string
  authored?: string
  mergeRequest?: string
  approvers?: string[]
  trigger?: string
  actor?: string
  pipeline?: number
  job?: number
  status: string
  message?: string
  began?: string
  applied?: string
  finished?: string
  health?: string
  previousSha?: string
  /** how many were changed: changes may leave some out */
  objects?: number
  changes?: ObjectChange[]
}

export interface Repair {
  id: number
  app: { kind: string; namespace: string; name: string }
  kind: string
  namespace?: string
  name: string
  /** as they were found, and as they are again; none: the object had been deleted */
  fields?: FieldChange[]
  more?: number
  manager?: string
  found?: string
  repaired?: string
  times?: number
}

/** Why an object is as it is. */
export interface SaidCommit {
  sha?: string
  title?: string
  author?: string
  authored?: string
}

/** kind, namespace and name are as they were asked for, object is what they stand for. */
export interface Answer {
  kind: string
  namespace?: string
  name: string
  field?: string
  object?: { kind: string; namespace?: string; name: string }
  found?: boolean
  what?: string
  fields?: FieldChange[]
  previous?: string
  value?: string
  delivery?: Delivery
  /** what was delivered, where the commit of the delivery is one of several that came with it */
  head?: SaidCommit
  /** further commits of the same delivery that have changed it too; where unsure says so, it may be by any of them */
  among?: SaidCommit[]
  unsure?: string
  declaration?: { delivery: Delivery; change: ObjectChange }
  approvals?: { by: string; how: string; at?: string; pipeline?: number; job?: number }[]
  pipelines?: { id: number; status?: string; iid?: number; project?: string }[]
  repairs?: Repair[]
  earlier?: { delivery: Delivery; change: ObjectChange }[]
  begins?: string
  note?: string
}

export interface AuditRecord {
  seq: number
  time: string
  actor: string
  action: string
  object?: string
  outcome?: string
  detail?: unknown
  hash?: string
}

export interface Pipeline {
  id: number
  iid: number
  project: number
  projectPath: string
  parent?: number
  upstream?: number
  source: string
  ref: string
  tag?: boolean
  sha: string
  title?: string
  author?: string
  user?: string
  status: string
  why?: string
  created: string
  started?: string
  finished?: string
  resting?: boolean
}

export interface Job {
  id: number
  pipeline: number
  name: string
  stage: string
  attempt: number
  status: string
  why?: string
  reason?: string
  exitCode?: number
  message?: string
  allowedToFail?: boolean
  created?: string
  started?: string
  finished?: string
  environment?: string
  coverage?: number
  runner?: string
  player?: string
  tests?: string // base64 of JSON
}

export interface PipelineDetail extends Pipeline {
  jobs: Job[] | null
  children?: Pipeline[]
  downstream?: Pipeline[]
}

export interface GraphJob {
  name: string
  base?: string
  stage: string
  dag?: boolean
  needs?: string[]
  when: string
  allowFailure?: boolean
  confirmation?: string
  environment?: string
  action?: string
  trigger?: boolean
  deployers?: string[]
}

export interface PipelineGraph {
  stages: string[]
  jobs: GraphJob[]
}

export interface TestCase {
  suite?: string
  class?: string
  name: string
  file?: string
  seconds?: number
  errored?: boolean
  message?: string
  output?: string
}

export interface TestReport {
  total: number
  failed: number
  errored: number
  skipped: number
  seconds: number
  failing?: TestCase[]
  errors?: string[]
}

export interface ArtifactFile {
  path: string
  mode: string
  size: number
  link?: string
}

export interface JobArtifacts {
  job?: number
  name: string
  archive: string
  saved: string
  expires?: string
  gone?: string
  count: number
  size: number
  files?: ArtifactFile[]
  reports?: { kind: string; size: number; files?: ArtifactFile[] }[]
}

export interface Deployment {
  id: number
  iid: number
  pipeline: number
  job: number
  jobName?: string
  ref: string
  sha: string
  status: string
  user?: string
  created: string
  started?: string
  finished?: string
}

export interface Environment {
  id: number
  project: number
  projectPath: string
  name: string
  slug: string
  tier?: string
  url?: string
  state: string
  ref?: string
  onStop?: string
  autoStop?: string
  created: string
  last?: Deployment
}

export interface EnvironmentDetail extends Environment {
  deployments: Deployment[]
  next?: number
}

export interface Matrix {
  environments: string[]
  rows: { app: string; cells: Record<string, { id?: string; revision?: string; sha?: string; state?: string; wanted?: string } | undefined> }[]
}

/** An answer that is no success. Status 0: the server was not reached. */
export class APIError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message)
  }
}

let csrf = ''

/** What must be sent along with requests that change something. */
export function setCSRF(token: string | undefined) {
  csrf = token ?? ''
}

const lost = new Set<() => void>()

/** Calls f when the server says that nobody is logged in any more. */
export function onLoggedOut(f: () => void): () => void {
  lost.add(f)
  return () => void lost.delete(f)
}

/** A fetch of the API, with what it needs; fails with APIError. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  if (csrf && init.method && init.method !== 'GET') headers.set('X-CSRF-Token', csrf)
  let res: Response
  try {
    res = await fetch(path, { ...init, headers, credentials: 'same-origin' })
  } catch (err) {
    if (err instanceof DOMException && err.name === 'AbortError') throw err
    throw new APIError(0, 'The server does not answer.')
  }
  if (res.ok) return res
  let message = `${res.status} ${res.statusText}`
  try {
    const body = (await res.json()) as { error?: string }
    if (body.error) message = body.error
  } catch {
    // no JSON: a proxy has answered
  }
  if (res.status === 401) for (const f of lost) f()
  throw new APIError(res.status, message)
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const res = await request(path, { signal, headers: { Accept: 'application/json' } })
  return (await res.json()) as T
}

/** Sends JSON, and gives the answer, if there is any. */
export async function send<T = void>(method: string, path: string, body?: unknown): Promise<T> {
  const res = await request(path, {
    method,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  })
  const text = await res.text()
  return (text === '' ? undefined : JSON.parse(text)) as T
}

/** path?name=value&… without what is empty */
export function query(path: string, values: Record<string, string | number | undefined>): string {
  const q = new URLSearchParams()
  for (const [k, v] of Object.entries(values)) if (v !== undefined && v !== '') q.set(k, String(v))
  const text = q.toString()
  return text === '' ? path : `${path}?${text}`
}

/** Kind/namespace/name as a path, each part escaped. */
export function appPath(a: { kind: string; namespace: string; name: string }): string {
  return [a.kind, a.namespace, a.name].map(encodeURIComponent).join('/')
}

export function missing(err: unknown): boolean {
  return err instanceof APIError && (err.status === 404 || err.status === 405 || err.status === 501)
}
