import { Deliveries } from '../deliveries'
import { SearchBox, useParam, useTitle } from '../ui'

export default function History() {
  useTitle('History')
  const [q, setQ] = useParam('q')
  const [environment, setEnvironment] = useParam('environment')
  const [author, setAuthor] = useParam('author')
  return (
    <div className="page">
      <div className="page-head">
        <h1>History</h1>
      </div>
      <div className="tools">
        <SearchBox value={q} onChange={setQ} label="Search deliveries" />
        {environment && (
          <button className="chip" aria-pressed="true" onClick={() => setEnvironment('')}>
            environment {environment} ×
          </button>
        )}
        {author && (
          <button className="chip" aria-pressed="true" onClick={() => setAuthor('')}>
            author {author} ×
          </button>
        )}
      </div>
      <section className="card" aria-label="Deliveries">
        <Deliveries filter={{ q, environment, author }} showApp />
      </section>
    </div>
  )
}
