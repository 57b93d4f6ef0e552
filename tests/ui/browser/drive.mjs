// Drives River UI in Chromium for browser_test.go. It reads commands from standard input,
// a line each, and answers each with a line of JSON: {"text": what the page says} or
// {"error": why not}. It ends when the input does.
//
// The environment: CHROMIUM, PLAYWRIGHT (a folder), SCREENSHOTS (a folder), UI (a URL),
// USERNAME, PASSWORD.
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const env = process.env
const { chromium } = createRequire(import.meta.url)(env.PLAYWRIGHT)

const browser = await chromium.launch({
  executablePath: env.CHROMIUM,
  // A container's root cannot have the sandbox; the other flags keep it off the network.
  args: [
    ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
    '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run',
  ],
})
const context = await browser.newContext({
  httpCredentials: { username: env.USERNAME, password: env.PASSWORD },
  viewport: { width: 1400, height: 1300 },
})
context.setDefaultTimeout(15_000)
const page = await context.newPage()

// Whatever the browser complains about: a script that fails, a file that is missing, a
// policy that is violated. River UI tries once whether it may evaluate text, and may not.
let complaints = []
page.on('console', m => m.type() === 'error' && !m.text().includes('unsafe-eval') && complaints.push(m.text()))
page.on('pageerror', e => complaints.push(String(e)))

let shots = 0
const shot = name => page.screenshot({ path: join(env.SCREENSHOTS, `${++shots}-${name}.png`) })
const text = () => page.innerText('body')

const commands = {
  // stranger: what the page says without a login, which Chromium then asks its user for.
  async stranger() {
    const other = await browser.newContext()
    try {
      const answer = await (await other.newPage()).goto(env.UI)
      return `${answer.status()}`
    } catch (e) {
      return String(e)
    } finally {
      await other.close()
    }
  },
  // list STATE: the list of jobs in a state.
  async list(state) {
    await page.goto(`${env.UI}jobs?state=${state}`)
    await page.getByText('archive_batch').first().waitFor()
    await shot(`list-${state}`)
    return text()
  },
  // job ID TEXT: the page of a job with its logs open, as soon as it shows a text.
  async job(id, ...wanted) {
    await page.goto(`${env.UI}jobs/${id}`)
    await page.getByText('Logs', { exact: true }).first().waitFor()
    for (const logs of await page.getByText('Logs', { exact: true }).all()) await logs.click()
    await page.getByText(wanted.join(' ')).first().waitFor()
    await shot(`job-${id}`)
    return text()
  },
  // press NAME: a button of the page that is open; what the server answers to it.
  async press(...name) {
    const answered = page.waitForResponse(r => r.request().method() !== 'GET')
    await page.getByRole('button', { name: name.join(' '), exact: true }).click()
    const status = (await answered).status()
    await page.waitForResponse(r => r.request().method() === 'GET') // the page looks again
    await shot(`pressed-${name.join('-')}`)
    return `${status}`
  },
  // queue NAME: the page of a queue.
  async queue(name) {
    await page.goto(`${env.UI}queues/${name}`)
    await page.getByText(name).first().waitFor()
    await shot(`queue-${name}`)
    return text()
  },
  // complaints: what the browser has complained about since the last time.
  async complaints() {
    const all = complaints.join('\n')
    complaints = []
    return all
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = line.trim().split(' ')
  let answer
  try {
    answer = { text: await commands[name](...args) }
  } catch (e) {
    await shot('error').catch(() => {})
    answer = { error: String(e) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
await browser.close()
