import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { APIError } from './api'
import { App } from './app'
import './styles.css'

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      retry: (n, err) => n < 2 && !(err instanceof APIError && err.status >= 400 && err.status < 500),
    },
  },
})

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
)
