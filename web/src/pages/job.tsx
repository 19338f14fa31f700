import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { Link, useParams } from 'wouter'
import type { Job } from '../api'
import { clock } from '../format'
import { LogView } from '../log/view'
import { Mark } from '../icons'
import { reportOf } from '../jobs'
import { jobQuery } from '../queries'
import { isActive, jobLook } from '../status'
import { Age, Badge, Loading, Problem, useTitle } from '../ui'
import { Failing, JobActions, JobFiles, useGraph, usePipeline, usePipelineArtifacts } from './pipeline'
import { Took } from './pipelines'

export default function JobPage() {
  const params = useParams<{ id: string; job: string }>()
  const id = Number(params.id)
  const number = Number(params.job)
  const job = useQuery(jobQuery(number))
  const p = usePipeline(id)
  const graph = useGraph(id)
  const left = usePipelineArtifacts(id)
  const artifacts = left.data?.artifacts?.find((a) => a.job === number)
  const j = job.data
  useTitle(j ? `${j.name} ${j.status}` : `Job ${number}`)
  const attempts = (p.data?.jobs ?? []).filter((o) => o.name === j?.name).sort((a, b) => b.attempt - a.attempt)
  const info = graph.data?.jobs.find((g) => g.name === j?.name)
  const report = reportOf(j)
  const begun = j && !['created', 'manual', 'scheduled', 'skipped', 'waiting_for_resource'].includes(j.status)
  return (
    <div className="page fill">
      <div className="crumbs">
        <Link href="/pipelines">Pipelines</Link> <span>/</span>
        <Link href={`/pipelines/${id}`}>{p.data?.title || `#${id}`}</Link> <span>/</span> <span>{j?.stage}</span>
      </div>
      {job.isPending && <Loading what="job" />}
      {job.isError && (
        <div className="card">
          <Problem error={job.error} what="job" retry={() => void job.refetch()} />
        </div>
      )}
      {j && (
        <>
          <div className="page-head">
            <div className="title">
              <Mark {...jobLook(j.status, j.allowedToFail)} big />
              <h1 className="cut">{j.name}</h1>
              <Badge status={j.status} as={jobLook(j.status, j.allowedToFail)} />
            </div>
            <span className="spacer" />
            {attempts[0]?.id === j.id && <JobActions pipeline={id} job={j} info={info} />}
          </div>
          <div className="row wrap small" style={{ gap: '6px 20px' }}>
            {j.started && (
              <span>
                <span className="dim">started</span> <Age time={j.started} /> <span className="dim">ago, took</span> <Took p={j} />
              </span>
            )}
            {j.environment && (
              <span>
                <span className="dim">environment</span> <Link href={`/environments?q=${encodeURIComponent(j.environment)}`}>{j.environment}</Link>
              </span>
            )}
            {j.player && (
              <span>
                <span className="dim">{info?.when === 'manual' ? 'played by' : 'retried by'}</span> {j.player}
              </span>
            )}
            {info?.deployers && info.deployers.length > 0 && (
              <span>
                <span className="dim">may be played by</span> {info.deployers.join(', ')}
              </span>
            )}
            {j.coverage !== undefined && (
              <span>
                <span className="dim">coverage</span> {j.coverage}%
              </span>
            )}
            {j.runner && (
              <span>
                <span className="dim">runs on</span> {j.runner}
              </span>
            )}
            {j.finished && <span className="dim hide-small">{clock(j.finished)}</span>}
            {attempts.length > 1 && (
              <span className="row" style={{ gap: 6 }}>
                <span className="dim">attempts</span>
                {attempts.map((a) => (
                  <Link key={a.id} href={`/pipelines/${id}/jobs/${a.id}`} aria-current={a.id === j.id ? 'page' : undefined} className="tag">
                    {a.attempt}
                  </Link>
                ))}
              </span>
            )}
          </div>
          {(j.message || (j.why && !begun)) && (
            <div className={`banner tone-${j.status === 'failed' ? (j.allowedToFail ? 'warn' : 'bad') : 'idle'}`}>
              <Mark {...jobLook(j.status, j.allowedToFail)} />
              <span>
                {j.message || j.why}
                {j.reason && j.status === 'failed' && <span className="dim"> · {j.reason.replaceAll('_', ' ')}</span>}
              </span>
            </div>
          )}
          {(report || artifacts) && (
            <div className="card">
              {report && (
                <>
                  <div className="row" style={{ padding: '10px 16px' }}>
                    <Mark {...(report.failed + report.errored > 0 ? { tone: 'bad', shape: 'cross' } : { tone: 'ok', shape: 'check' })} />
                    <b>{report.total} tests</b>
                    <span className="dim">
                      {report.failed} failed, {report.errored} broken, {report.skipped} skipped, {report.seconds.toFixed(1)}s
                    </span>
                  </div>
                  <Failing report={report} />
                </>
              )}
              {artifacts && <JobFiles artifacts={{ ...artifacts, name: 'Artifacts' }} />}
            </div>
          )}
          {begun && <JobLog key={j.id} job={j} />}
        </>
      )}
    </div>
  )
}

// A log that was begun while the job ran is read to its end in the same way: it is not read again when the job is over.
function JobLog({ job }: { job: Job }) {
  const [live] = useState(isActive(job.status))
  return <LogView path={`/api/v1/jobs/${job.id}/log${live ? '?follow=1' : ''}`} name={job.name} live={live && isActive(job.status)} />
}
