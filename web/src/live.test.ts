import { expect, it } from 'vitest'
import { stale, type Change } from './live'

const cases: [string, Change, unknown[][]][] = [
  ['pipeline', { kind: 'pipeline', id: 7 }, [['pipelines'], ['pipeline', 7]]],
  ['job', { kind: 'job', id: 9, pipeline: 7 }, [['pipeline', 7], ['job', 9], ['artifacts', 7]]],
  ['delivery', { kind: 'delivery', id: 3 }, [['deliveries'], ['matrix'], ['repairs'], ['why']]],
  ['repair', { kind: 'repair', id: 4 }, [['repairs'], ['why']]],
  ['ready', { kind: 'ready', id: 0 }, []],
]

it.each(cases)('a change of a %s makes stale what shows it', (name, change, want) => expect(stale(name, change)).toEqual(want))
