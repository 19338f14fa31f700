// What a person can do with an environment.
import { useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { send, type Deployment, type Environment } from './api'
import { Icon } from './icons'
import { Dialog, Sha, say } from './ui'

export function EnvironmentActions({ environment: e, little, to }: { environment: Environment; little?: boolean; to?: Deployment }) {
  const client = useQueryClient()
  const [ask, setAsk] = useState<'' | 'stop' | 'rollback'>('')
  const [force, setForce] = useState(false)
  const path = `/api/v1/environments/${e.id}`
  const done = (text: string) => {
    say(text)
    void client.invalidateQueries({ queryKey: ['environments'] })
    void client.invalidateQueries({ queryKey: ['environment'] })
  }
  const look = `button${little ? ' little' : ''}`
  const close = () => setAsk('')
  return (
    <>
      {(e.last || to) && (
        <button className={look} onClick={() => setAsk('rollback')} aria-label={`Roll back ${e.name}${to ? ` to deployment ${to.iid}` : ''}`}>
          <Icon name="back" /> Roll back
        </button>
      )}
      {!to && e.state === 'available' && (
        <button className={look} onClick={() => setAsk('stop')} aria-label={`Stop ${e.name}`}>
          <Icon name="stop" /> Stop
        </button>
      )}
      {ask === 'rollback' && (
        <Dialog title={`Roll ${e.name} back?`} action="Roll back" danger onClose={close} onDo={() => send('POST', `${path}/rollback`, to ? { to: to.iid } : {}).then(() => done(`${e.name} goes back`))}>
          {to ? (
            <p>
              The job of deployment {to.iid} runs again, with <Sha sha={to.sha} /> of {to.ref}.
            </p>
          ) : (
            <p>The job of the last deployment of another commit runs again.</p>
          )}
        </Dialog>
      )}
      {ask === 'stop' && (
        <Dialog title={`Stop ${e.name}?`} action="Stop" danger onClose={close} onDo={() => send('POST', `${path}/stop`, { force }).then(() => done(`${e.name} is being stopped`))}>
          <p>{e.onStop ? `The job ${e.onStop} is played.` : 'It has no job that stops it: it is marked as stopped.'}</p>
          {e.onStop && (
            <label className="row">
              <input type="checkbox" checked={force} onChange={(ev) => setForce(ev.target.checked)} /> Mark it as stopped without that job
            </label>
          )}
        </Dialog>
      )}
    </>
  )
}
