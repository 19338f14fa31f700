import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { APIError } from './api'
import { App, load } from './app'
import { early } from './early'
import './styles.css'

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      retry: (n, err) => n < 2 && !(err instanceof APIError && err.status >= 400 && err.status < 500),
    },
  },
})

function draw() {
  createRoot(document.getElementById('root')!).render(
    <StrictMode>
      <QueryClientProvider client={client}>
        <App />
      </QueryClientProvider>
    </StrictMode>,
  )
}

// Nothing is drawn before there is something to draw, but nobody looks at an empty page for long. This module does not wait itself: the pages' modules
// wait for it.
const { pathname, search } = window.location
const ready = Promise.all([load(pathname), early(client, pathname, search)])
void Promise.race([ready, new Promise((r) => setTimeout(r, 300))]).finally(draw)
