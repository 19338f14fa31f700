import { useQueries, useQuery, useQueryClient } from '@tanstack/react-query'
import { useMemo, useState } from 'react'
import { Link, useParams } from 'wouter'
import { get, send, type GraphJob, type Job, type JobArtifacts, type Pipeline, type PipelineDetail, type PipelineGraph, type TestReport } from '../api'
import { bytes, clock, plural } from '../format'
import { jobSize, pipelineLayout } from '../graph/layout'
import { Icon, Mark } from '../icons'
import { latest, reportOf, stageStatus } from '../jobs'
import { graphQuery, jobQuery, pipelineQuery } from '../queries'
import { isActive, jobLook, look, words } from '../status'
import { Age, Badge, Dialog, Empty, Loading, Person, Problem, Sha, Sign, Tabs, say, useTitle } from '../ui'
import { Took } from './pipelines'

export function usePipeline(id: number) {
  return useQuery(pipelineQuery(id))
}

export function useGraph(id: number) {
  return useQuery(graphQuery(id))
}

export default function PipelinePage() {
  const params = useParams<{ id: string; tab?: string }>()
  const id = Number(params.id)
  const tab = params.tab ?? 'graph'
  const p = usePipeline(id)
  const graph = useGraph(id)
  useTitle(p.data ? `${words(p.data.status)}: ${p.data.title ?? `pipeline ${id}`}` : `Pipeline ${id}`)
  const jobs = useMemo(() => latest(p.data?.jobs ?? []), [p.data])
  return (
    <div className="page">
      <div className="crumbs">
        <Link href="/pipelines">Pipelines</Link>
        {p.data && (
          <>
            <span>/</span>
            <Link href={`/pipelines?project=${encodeURIComponent(p.data.projectPath)}`}>{p.data.projectPath}</Link> <span>/</span> <span>#{id}</span>
          </>
        )}
      </div>
      {p.isPending && (
        <div className="card">
          <Loading what="pipeline" />
        </div>
      )}
      {p.isError && !p.data && (
        <div className="card">
          <Problem error={p.error} what="pipeline" retry={() => void p.refetch()} />
        </div>
      )}
      {p.data && (
        <>
          <Head p={p.data} jobs={jobs} />
          {jobs.length === 0 && p.data.why && (
            <div className={`banner tone-${look(p.data.status).tone === 'bad' ? 'bad' : 'idle'}`} role="alert">
              <Mark {...look(p.data.status)} />
              <pre className="mono">{p.data.why}</pre>
            </div>
          )}
          <Tabs
            now={tab}
            tabs={[
              { id: 'graph', href: `/pipelines/${id}`, name: 'Graph' },
              { id: 'jobs', href: `/pipelines/${id}/jobs`, name: 'Jobs', n: jobs.length },
              { id: 'tests', href: `/pipelines/${id}/tests`, name: 'Tests' },
              { id: 'artifacts', href: `/pipelines/${id}/artifacts`, name: 'Artifacts' },
            ]}
          />
          {tab === 'graph' && (
            <section className="card" aria-label="Graph">
              {jobs.length === 0 && <Empty icon="pipelines" title="No jobs">{p.data.why ? 'The configuration has made none.' : 'They are being made.'}</Empty>}
              {jobs.length > 0 && <Graph pipeline={p.data} jobs={jobs} graph={graph.data} />}
            </section>
          )}
          {tab === 'jobs' && <JobList pipeline={p.data} jobs={p.data.jobs ?? []} graph={graph.data} />}
          {tab === 'tests' && <Tests jobs={jobs} />}
          {tab === 'artifacts' && <Artifacts pipeline={id} />}
          <Others name="Child pipelines" list={p.data.children} />
          <Others name="Pipelines of other projects" list={p.data.downstream} />
        </>
      )}
    </div>
  )
}

function Head({ p, jobs }: { p: PipelineDetail; jobs: Job[] }) {
  const act = useAct(p.id)
  const active = isActive(p.status) || jobs.some((j) => isActive(j.status) && j.status !== 'created')
  const failed = jobs.some((j) => j.status === 'failed' || j.status === 'canceled')
  return (
    <>
      <div className="page-head">
        <div className="title">
          <Mark {...look(p.status)} big />
          <h1 className="cut">{p.title || `Pipeline ${p.id}`}</h1>
          <Badge status={p.status} />
        </div>
        <span className="spacer" />
        {active && (
          <button className="button" onClick={() => void act('cancel', {}, 'The pipeline is being cancelled')}>
            <Icon name="stop" /> Cancel
          </button>
        )}
        {failed && !active && (
          <button className="button" onClick={() => void act('retry', {}, 'What failed runs again')}>
            <Icon name="retry" /> Retry failed
          </button>
        )}
      </div>
      <div className="row wrap small" style={{ gap: '6px 20px' }}>
        <span className="row">
          <span className="tag">{p.ref}</span> <Sha sha={p.sha} />
        </span>
        <span className="row">
          <Person name={p.author ?? p.user} />
        </span>
        <span>
          <span className="dim">started by</span> {p.source.replaceAll('_', ' ')}
          {p.user && ` of ${p.user}`}
        </span>
        <span>
          <span className="dim">created</span> <Age time={p.created} /> <span className="dim">ago, took</span> <Took p={p} />
        </span>
        {p.resting && jobs.some((j) => j.status === 'manual') && <span className="soft">waits for a person</span>}
      </div>
    </>
  )
}

/** Asks for something that is done with a pipeline, and says how that went. */
export function useAct(id: number) {
  const client = useQueryClient()
  return async (action: 'play' | 'retry' | 'cancel', body: { jobs?: string[]; dependants?: boolean }, done: string) => {
    try {
      await send('POST', `/api/v1/pipelines/${id}/${action}`, body)
      say(done)
    } catch (err) {
      say(err instanceof Error ? err.message : String(err), 'bad')
    }
    await client.invalidateQueries({ queryKey: ['pipeline', id] })
  }
}

/** What a person can do with a job now. */
export function JobActions({ pipeline, job, info, little }: { pipeline: number; job: Job; info?: GraphJob; little?: boolean }) {
  const act = useAct(pipeline)
  const [ask, setAsk] = useState(false)
  const names = { jobs: [job.name] }
  const look = `button ${little ? 'icon little quiet' : ''}`
  if (job.status === 'manual' || job.status === 'scheduled') {
    return (
      <>
        <button className={little ? look : 'button primary'} aria-label={`Play ${job.name}`} title="Play" onClick={() => setAsk(true)}>
          <Icon name="play" /> {!little && 'Play'}
        </button>
        {ask && (
          <Dialog title={info?.confirmation || `Play ${job.name}?`} action="Play" onClose={() => setAsk(false)} onDo={() => send('POST', `/api/v1/pipelines/${pipeline}/play`, names).then(() => say(`${job.name} is played`))}>
            {info?.environment && (
              <p>
                {info.action === 'stop' ? 'It stops the environment' : 'It deploys to the environment'} <b>{info.environment}</b>.
              </p>
            )}
            <p className="dim">{info?.deployers?.length ? `Those who may: ${info.deployers.join(', ')}.` : 'Everybody who may play jobs may play it.'}</p>
          </Dialog>
        )}
      </>
    )
  }
  if (isActive(job.status)) {
    if (job.status === 'created') return null
    return (
      <button className={look} aria-label={`Cancel ${job.name}`} title="Cancel" onClick={() => void act('cancel', names, `${job.name} is being cancelled`)}>
        <Icon name="stop" /> {!little && 'Cancel'}
      </button>
    )
  }
  if (job.status === 'skipped') return null
  return (
    <button className={look} aria-label={`Retry ${job.name}`} title="Retry" onClick={() => void act('retry', names, `${job.name} runs again`)}>
      <Icon name="retry" /> {!little && 'Retry'}
    </button>
  )
}

function Graph({ pipeline, jobs, graph }: { pipeline: PipelineDetail; jobs: Job[]; graph?: PipelineGraph }) {
  const [over, setOver] = useState('')
  const drawn = useMemo(() => {
    const known = new Map(graph?.jobs.map((j) => [j.name, j]))
    const stages = graph?.stages ?? [...new Set(jobs.map((j) => j.stage))]
    return { known, layout: pipelineLayout(stages, jobs.map((j) => ({ ...known.get(j.name), name: j.name, stage: j.stage, job: j }))) }
  }, [jobs, graph])
  const near = useMemo(() => (over === '' ? undefined : new Set([over, ...drawn.layout.edges.flatMap((e) => (e.from === over ? [e.to] : e.to === over ? [e.from] : []))])), [over, drawn])
  const l = drawn.layout
  return (
    <div className="graph" tabIndex={0} role="group" aria-label="Jobs by stage">
      <div className="graph-inner" style={{ width: l.width, height: l.height }}>
        <svg className="edges" width={l.width} height={l.height} aria-hidden="true">
          {l.edges.map((e) => (
            <path key={`${e.from} ${e.to}`} d={e.path} data-on={over === e.from || over === e.to} />
          ))}
        </svg>
        {l.stages.map((s) => (
          <div key={s.name} role="group" aria-label={`Stage ${s.name}`}>
            <div className="stage-head" style={{ left: s.x, width: jobSize.width }}>
              <Sign status={stageStatus(s.jobs.map((j) => j.node.job))} />
              {s.name}
            </div>
            {s.jobs.map(({ node, x, y }) => {
              const as = jobLook(node.job.status, node.job.allowedToFail)
              return (
                <div
                  key={node.name}
                  className={`job-node ${as.tone === 'bad' || as.tone === 'run' ? `tone-${as.tone}` : ''}`}
                  style={{ left: x, top: y, width: jobSize.width, height: jobSize.height }}
                  data-faded={near !== undefined && !near.has(node.name)}
                  onMouseEnter={() => setOver(node.name)}
                  onMouseLeave={() => setOver('')}
                  onFocus={() => setOver(node.name)}
                  onBlur={() => setOver('')}
                >
                  <Link href={`/pipelines/${pipeline.id}/jobs/${node.job.id}`} title={node.job.why}>
                    <Sign status={node.job.status} as={as} />
                    <span className="cut">{node.name}</span>
                  </Link>
                  <JobActions pipeline={pipeline.id} job={node.job} info={drawn.known.get(node.name)} little />
                </div>
              )
            })}
          </div>
        ))}
      </div>
    </div>
  )
}

function JobList({ pipeline, jobs, graph }: { pipeline: PipelineDetail; jobs: Job[]; graph?: PipelineGraph }) {
  const known = new Map(graph?.jobs.map((j) => [j.name, j]))
  const stages = graph?.stages ?? [...new Set(jobs.map((j) => j.stage))]
  const newest = new Set(latest(jobs).map((j) => j.id))
  if (jobs.length === 0) return <div className="card"><Empty icon="pipelines" title="No jobs" /></div>
  return (
    <>
      {stages.map((s) => (
        <section key={s} className="card" aria-label={`Stage ${s}`}>
          <header>
            <h2>{s}</h2>
          </header>
          <div className="scroll-x" tabIndex={0} role="group" aria-label="Table">
            <table className="table jobs">
              <thead>
                <tr>
                  <th scope="col">Job</th>
                  <th scope="col">Status</th>
                  <th scope="col" className="hide-small">
                    What it says
                  </th>
                  <th scope="col" className="num hide-small">
                    Took
                  </th>
                  <th scope="col" className="num">
                    <span className="hidden-text">Actions</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {jobs
                  .filter((j) => j.stage === s)
                  .map((j) => (
                    <tr key={j.id} style={newest.has(j.id) ? undefined : { opacity: 0.65 }}>
                      <th scope="row">
                        <Link href={`/pipelines/${pipeline.id}/jobs/${j.id}`}>{j.name}</Link>{' '}
                        {j.attempt > 1 && <span className="tag">attempt {j.attempt}</span>} {j.environment && <span className="tag">{j.environment}</span>}
                      </th>
                      <td>
                        <Badge status={j.status} as={jobLook(j.status, j.allowedToFail)} />
                      </td>
                      <td className="small soft hide-small">
                        {j.message || j.why} {j.player && <span className="dim">· played by {j.player}</span>}
                      </td>
                      <td className="num small dim hide-small">
                        <Took p={j} />
                      </td>
                      <td className="num">{newest.has(j.id) && <JobActions pipeline={pipeline.id} job={j} info={known.get(j.name)} little />}</td>
                    </tr>
                  ))}
              </tbody>
            </table>
          </div>
        </section>
      ))}
    </>
  )
}

function Tests({ jobs }: { jobs: Job[] }) {
  const over = jobs.filter((j) => !isActive(j.status) && j.status !== 'manual' && j.status !== 'skipped')
  const all = useQueries({
    queries: over.map((j) => ({ ...jobQuery(j.id), staleTime: 60_000 })),
  })
  if (all.some((q) => q.isPending)) return <div className="card"><Loading what="test reports" /></div>
  const reports = all.flatMap((q): { job: Job; report: TestReport }[] => {
    const report = reportOf(q.data)
    return q.data && report ? [{ job: q.data, report }] : []
  })
  if (reports.length === 0) {
    return (
      <div className="card">
        <Empty icon="file" title="No test reports">
          A job leaves one with <code>artifacts:reports:junit</code>.
        </Empty>
      </div>
    )
  }
  return (
    <section className="card" aria-label="Test reports">
      <div className="scroll-x" tabIndex={0} role="group" aria-label="Table">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Job</th>
              <th scope="col" className="num">Tests</th>
              <th scope="col" className="num">Failed</th>
              <th scope="col" className="num">Broken</th>
              <th scope="col" className="num">Skipped</th>
              <th scope="col" className="num">Time</th>
            </tr>
          </thead>
          <tbody>
            {reports.map(({ job, report: r }) => (
              <tr key={job.id}>
                <th scope="row">
                  <span className="row">
                    <Mark {...look(r.failed + r.errored > 0 ? 'failed' : 'success')} />
                    <Link href={`/pipelines/${job.pipeline}/jobs/${job.id}`}>{job.name}</Link>
                  </span>
                </th>
                <td className="num">{r.total}</td>
                <td className="num">{r.failed}</td>
                <td className="num">{r.errored}</td>
                <td className="num">{r.skipped}</td>
                <td className="num">{r.seconds.toFixed(1)}s</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {reports.map(({ job, report }) => <Failing key={job.id} report={report} />)}
    </section>
  )
}

export function Failing({ report }: { report: TestReport }) {
  return (
    <>
      {report.errors?.map((e) => (
        <div key={e} className="banner tone-warn" style={{ margin: 12 }}>
          <Mark tone="warn" shape="warn" />
          <span>{e}</span>
        </div>
      ))}
      {report.failing?.map((c, i) => (
        <details key={i} style={{ padding: '10px 16px', borderTop: '1px solid var(--line)' }}>
          <summary>
            <b>{c.name}</b> <span className="dim">{c.class ?? c.suite}</span>
            {c.message && <div className="tone-bad small">{c.message}</div>}
          </summary>
          {c.output && <pre className="mono small" style={{ marginTop: 8 }}>{c.output}</pre>}
        </details>
      ))}
    </>
  )
}

function Artifacts({ pipeline }: { pipeline: number }) {
  const list = useQuery({ queryKey: ['artifacts', pipeline], queryFn: ({ signal }) => get<{ artifacts: JobArtifacts[] | null }>(`/api/v1/pipelines/${pipeline}/artifacts`, signal) })
  const all = list.data?.artifacts ?? []
  return (
    <section className="card" aria-label="Artifacts">
      {list.isPending && <Loading what="artifacts" />}
      {list.isError && <Problem error={list.error} what="artifacts" retry={() => void list.refetch()} />}
      {list.data && all.length === 0 && <Empty icon="file" title="No artifacts">No job of this pipeline has left files.</Empty>}
      {all.map((a) => <JobFiles key={a.name} artifacts={a} />)}
    </section>
  )
}

/** What one job has left; its files when it is opened. */
export function JobFiles({ artifacts: a, open: begin }: { artifacts: JobArtifacts; open?: boolean }) {
  const [open, setOpen] = useState(begin ?? false)
  const base = `/api/v1/jobs/${a.job}/artifacts`
  const files = useQuery({ queryKey: ['files', a.job], enabled: open && !!a.job, queryFn: ({ signal }) => get<JobArtifacts>(`${base}?limit=2000`, signal) })
  return (
    <div>
      <div className="row object-head" style={{ cursor: 'default' }}>
        <button className="button quiet little" aria-expanded={open} onClick={() => setOpen(!open)} aria-label={`Files of ${a.name}`}>
          {open ? '▾' : '▸'}
        </button>
        <b className="cut">{a.name}</b>
        <span className="dim small nowrap">
          {plural(a.count, 'file')} · {bytes(a.size)}
        </span>
        {a.reports?.map((r) => (
          <span key={r.kind} className="tag">
            {r.kind}
          </span>
        ))}
        <span className="spacer" />
        <span className="small dim hide-small">{a.gone ? a.gone : a.expires ? `expires ${clock(a.expires)}` : 'kept'}</span>
        {!a.gone && a.job && a.count > 0 && (
          <a className="button little" href={`${base}/archive`} download>
            <Icon name="download" /> zip
          </a>
        )}
      </div>
      {open && (
        <div style={{ padding: '0 16px 12px 58px' }}>
          {files.isPending && <Loading what="files" rows={2} />}
          {files.isError && <p className="dim">{(files.error as Error).message}</p>}
          <ul>
            {files.data?.files?.map((f) => (
              <li key={f.path} className="row small" style={{ padding: '2px 0' }}>
                <code className="dim hide-small">{f.mode}</code>
                {f.mode.startsWith('-') ? (
                  <a className="cut mono" href={`${base}/file?path=${encodeURIComponent(f.path)}`} download>
                    {f.path}
                  </a>
                ) : (
                  <span className="cut mono">
                    {f.path} {f.link && `→ ${f.link}`}
                  </span>
                )}
                <span className="dim nowrap">{f.mode.startsWith('-') && bytes(f.size)}</span>
              </li>
            ))}
            {files.data?.reports?.map((r) => (
              <li key={r.kind} className="row small" style={{ padding: '2px 0' }}>
                <span className="tag">{r.kind}</span> {bytes(r.size)}
              </li>
            ))}
          </ul>
        </div>
      )}
    </div>
  )
}

function Others({ name, list }: { name: string; list?: Pipeline[] }) {
  if (!list?.length) return null
  return (
    <section className="card" aria-label={name}>
      <header>
        <h2>{name}</h2>
      </header>
      {list.map((c) => (
        <Link key={c.id} href={`/pipelines/${c.id}`} className="pipeline-row">
          <span>
            <Badge status={c.status} />
          </span>
          <span className="cut">
            #{c.id} {c.projectPath} {c.title}
          </span>
        </Link>
      ))}
    </section>
  )
}
