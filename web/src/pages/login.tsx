import { useQuery } from '@tanstack/react-query'
import { useState, type FormEvent } from 'react'
import { send } from '../api'
import { Logo, Mark } from '../icons'
import { useTitle } from '../ui'

interface Ways {
  password?: boolean
  oidc?: string
}

export function Login({ onDone }: { onDone: () => void }) {
  useTitle('Log in')
  // Who is not logged in is told how it is done, with the 401.
  const ways = useQuery({
    queryKey: ['ways'],
    queryFn: async (): Promise<Ways> => {
      const res = await fetch('/api/v1/me')
      const body = (await res.json().catch(() => ({}))) as { login?: Ways }
      return body.login ?? { password: true }
    },
  })
  const [by, setBy] = useState<'password' | 'token'>('token')
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState('')
  const submit = async (e: FormEvent<HTMLFormElement>) => {
    e.preventDefault()
    const f = new FormData(e.currentTarget)
    setBusy(true)
    setError('')
    try {
      await send('POST', '/api/v1/session', by === 'token' ? { token: String(f.get('token')).trim() } : { user: f.get('user'), password: f.get('password') })
      onDone()
    } catch (err) {
      setError(err instanceof Error ? err.message : String(err))
    } finally {
      setBusy(false)
    }
  }
  const oidc = ways.data?.oidc
  return (
    <main className="login">
      <div className="card">
        <div className="brand">
          <Logo />
          <h1>Keelson</h1>
        </div>
        <form onSubmit={(e) => void submit(e)}>
          {oidc && (
            <a className="button primary" href={`${oidc}?next=${encodeURIComponent(window.location.pathname + window.location.search)}`}>
              Log in with your organisation
            </a>
          )}
          <div className="switch" role="group" aria-label="Log in with">
            <button type="button" aria-pressed={by === 'token'} onClick={() => setBy('token')}>
              Token
            </button>
            <button type="button" aria-pressed={by === 'password'} onClick={() => setBy('password')}>
              Password
            </button>
          </div>
          {by === 'token' ? (
            <label>
              Token
              <input className="input mono" name="token" type="password" autoComplete="current-password" required autoFocus />
              <span className="dim" style={{ fontWeight: 400 }}>
                The first start of the instance has printed one.
              </span>
            </label>
          ) : (
            <>
              <label>
                User
                <input className="input" name="user" autoComplete="username" required autoFocus />
              </label>
              <label>
                Password
                <input className="input" name="password" type="password" autoComplete="current-password" required />
              </label>
            </>
          )}
          {error && (
            <div className="banner tone-bad" role="alert">
              <Mark tone="bad" shape="cross" />
              <span>{error}</span>
            </div>
          )}
          <button className={`button${oidc ? '' : ' primary'}`} disabled={busy}>
            Log in
          </button>
        </form>
      </div>
    </main>
  )
}
