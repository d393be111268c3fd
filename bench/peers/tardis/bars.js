// Trade bars of 1s, 10s and 1m with tardis-dev. Arguments: a file of float64 (time in ms, price, amount, 1 if
// bought), row by row. Says its version, then does the work once for every line it reads.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const require = createRequire(process.cwd() + '/')
const { compute, computeTradeBars } = require('tardis-dev')
const bytes = readFileSync(process.argv[2])
const numbers = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8)
const trades = []
for (let at = 0; at < numbers.length; at += 4) {
  const timestamp = new Date(numbers[at])
  trades.push({
    type: 'trade',
    symbol: 'XBT/USD',
    exchange: 'kraken',
    id: String(at),
    price: numbers[at + 1],
    amount: numbers[at + 2],
    side: numbers[at + 3] ? 'buy' : 'sell',
    timestamp,
    localTimestamp: timestamp
  })
}

async function* messages() {
  yield* trades
}

async function work() {
  const bars = [1_000, 10_000, 60_000].map((interval) => computeTradeBars({ kind: 'time', interval }))
  let count = 0
  for await (const message of compute(messages(), ...bars)) {
    if (message.type === 'trade_bar') count += 1
  }
  return count
}

const seconds = (numbers[numbers.length - 4] - numbers[0]) / 1_000
const found = await work()
if (found < seconds) throw new Error(`${found} bars of ${seconds} seconds`)
console.log(JSON.stringify({ 'tardis-dev': require('tardis-dev/package.json').version }))
for await (const _ of createInterface({ input: process.stdin })) {
  const began = performance.now()
  await work()
  console.log((performance.now() - began) / 1_000)
}
