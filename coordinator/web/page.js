// The page of the coordinator. Everything that it shows comes from the JSON interface and is put
// into the document as text, never as HTML.
'use strict';

const POLL_MS = 2000;
const LOG_LINES = 500;
const SVG = 'http://www.w3.org/2000/svg';

const $ = (id) => document.getElementById(id);
const state = {token: sessionStorage.getItem('token') || '', timer: 0, run: 0};

// ---- Elements ----

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// `columns`: {title, number, cell: (row) => text or element}.
function makeTable(columns, rows, nothing) {
  if (rows.length === 0) return make('p', {class: 'faint'}, nothing);
  const head = columns.map((c) => make('th', {class: c.number ? 'number' : '', scope: 'col'}, c.title));
  const body = rows.map((row) => make('tr', {}, ...columns.map((column) => {
    const content = column.cell(row);
    const cell = make('td', {'class': column.number ? 'number' : '', 'data-label': column.title});
    if (content instanceof Element) cell.append(content);
    else if (content !== '') cell.append(make('span', {}, content));
    return cell;
  })));
  return make('table', {}, make('thead', {}, make('tr', {}, ...head)), make('tbody', {}, ...body));
}

// ---- Words and figures ----

const number = (value, digits = 4) =>
  Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : String(value);
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const plural = (count, noun) => `${count} ${noun}${count === 1 ? '' : 's'}`;

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    ++unit;
  }
  return `${number(value, 3)} ${units[unit]}`;
}

function duration(seconds) {
  if (!(seconds >= 0)) return '';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

function clock(unix) {
  return unix > 0 ? new Date(unix * 1000).toLocaleString() : '';
}

const STATE_CLASS = {
  RUNNING: 'busy', SUCCEEDED: 'good', FAILED: 'bad', RECOVERING: 'warn', CANCELLING: 'warn',
  STOPPING: 'warn', idle: 'good', busy: 'busy', lost: 'bad', down: 'bad', fenced: 'warn',
  connecting: 'warn',
};
const makeState = (name) =>
  make('span', {class: `state ${STATE_CLASS[name] || ''}`}, name.toLowerCase());

const isOver = (job) => ['SUCCEEDED', 'FAILED', 'CANCELLED'].includes(job.state);

// ---- Requests ----

class Fault extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = {...(options.headers || {})};
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let response;
  try {
    response = await fetch(path, {...options, headers, credentials: 'omit', cache: 'no-store'});
  } catch (error) {
    throw new Fault(0, 'The coordinator can\'t be reached; trying again.');
  }
  const answer = await response.json().catch(() => ({error: response.statusText}));
  if (!response.ok) throw new Fault(response.status, answer.error || response.statusText);
  return answer;
}

const post = (path, type, body) =>
  ask(path, {method: 'POST', headers: {'Content-Type': type}, body});

function showFault(message) {
  $('fault').textContent = message;
  $('fault').hidden = message === '';
}

// ---- Jobs ----

function makeProgress(job) {
  const progress = job.progress;
  if (!progress || Number(progress.total_steps) === 0) return '';
  const box = make('span', {}, `${progress.step} / ${progress.total_steps}`);
  box.append(make('progress', {max: progress.total_steps, value: progress.step}));
  return box;
}

const JOB_COLUMNS = [
  {title: 'Job', cell: (job) => make('a', {href: `#job/${encodeURIComponent(job.job_id)}`},
                                     job.spec.name ? `${job.spec.name} (${job.job_id})` : job.job_id)},
  {title: 'State', cell: (job) => makeState(job.state)},
  {title: 'Steps', cell: makeProgress},
  {title: 'Loss', number: true, cell: (job) => job.progress ? number(job.progress.loss) : ''},
  {title: 'Pictures/s', number: true,
   cell: (job) => job.progress ? number(job.progress.images_per_second, 3) : ''},
  {title: 'Fleet', cell: (job) => job.fleet ? `${job.fleet}, ${plural(job.attempt_ranks, 'rank')}` : ''},
  {title: 'User', cell: (job) => job.user},
  {title: 'Restarts', number: true, cell: (job) => job.restarts ? String(job.restarts) : ''},
  {title: 'Why', cell: (job) => job.reason},
];

async function showJobs() {
  const jobs = (await ask('/api/jobs?limit=100')).jobs;
  const counts = new Map();
  for (const job of jobs) counts.set(job.state, (counts.get(job.state) || 0) + 1);
  const words = [...counts].map(([name, count]) => `${count} ${name.toLowerCase()}`);
  return () => {
    $('summary').textContent = words.length ? `Of the newest ${jobs.length}: ${words.join(', ')}` : '';
    $('job-list').replaceChildren(makeTable(JOB_COLUMNS, jobs, 'There are no jobs.'));
  };
}

// ---- Fleets ----

const FLEET_COLUMNS = [
  {title: 'Fleet', cell: (fleet) => fleet.name},
  {title: 'State', cell: (fleet) => makeState(fleet.state)},
  {title: 'Ranks', number: true, cell: (fleet) => `${fleet.connected_ranks} of ${fleet.world_size}`},
  {title: 'Job', cell: (fleet) => fleet.job_id === '' ? '' :
    make('a', {href: `#job/${encodeURIComponent(fleet.job_id)}`}, fleet.job_id)},
  {title: 'Supervised', cell: (fleet) => fleet.supervised ? 'yes' : 'no'},
  {title: 'Last end', cell: (fleet) => fleet.last_exit},
  {title: 'Hosts', cell: (fleet) => makeRanks(fleet.ranks)},
];
const HOST_COLUMNS = [
  {title: 'Host', cell: (host) => host.name},
  {title: 'Failures', number: true, cell: (host) => number(host.failures, 2)},
  {title: 'Left out', cell: (host) => host.left_out ? 'yes' : 'no'},
  {title: 'Last', cell: (host) => host.last},
];

async function showFleets() {
  const answer = await ask('/api/fleets');
  return () => {
    $('fleet-list').replaceChildren(makeTable(FLEET_COLUMNS, answer.fleets, 'No fleet is known.'));
    $('host-list').replaceChildren(makeTable(HOST_COLUMNS, answer.hosts, 'None.'));
  };
}

// Ranks by host, each with its heartbeat.
function makeRanks(ranks) {
  const hosts = new Map();
  for (const rank of ranks) {
    if (!hosts.has(rank.host)) hosts.set(rank.host, []);
    hosts.get(rank.host).push(rank);
  }
  const box = make('div');
  for (const [host, members] of hosts) {
    const chips = members.map((rank) => {
      const silence = rank.seconds_since_heartbeat;
      const kind = silence > 10 ? 'bad' : silence > 4 || rank.straggler ? 'warn' : '';
      const doing = rank.in_collective ? `${rank.phase}: ${rank.collective}` : rank.phase;
      return make('li', {class: kind},
                  `${rank.rank} · ${doing || '?'} · ${silence.toFixed(1)} s ago · ` +
                  `${bytes(Number(rank.memory_bytes))}${rank.straggler ? ' · slow' : ''}`);
    });
    box.append(make('div', {class: 'host'}, make('strong', {}, host || '(unknown host)'),
                    make('ul', {class: 'chips'}, ...chips)));
  }
  return box;
}

// ---- One job ----

function figures(job) {
  const progress = job.progress;
  const out = [['Attempt', `${job.attempt}, ${plural(job.restarts, 'restart')}`]];
  if (job.queue_position) out.push(['In the queue', `number ${job.queue_position}`]);
  if (progress) {
    out.push(
      ['Step', `${progress.step} of ${progress.total_steps}`],
      ['Epoch', `${progress.epoch} of ${progress.epochs}`],
      ['Loss', number(progress.loss)],
      ['Pictures a second', number(progress.images_per_second, 3)],
      ['Learning rate', number(progress.learning_rate, 3)],
      ['Norm of the gradient', number(progress.grad_norm, 3)],
      ['Waits for communication', percent(progress.exposed_communication)],
      ['Waits for pictures', percent(progress.input_wait)],
      ['Memory of a rank', bytes(Number(progress.peak_memory_rank_bytes))]);
    if (progress.top1 !== undefined && Number(progress.evaluated_step)) out.push(['Accuracy', percent(progress.top1)]);
    if (Number(progress.skipped_steps)) out.push(['Skipped steps', progress.skipped_steps]);
    if (!isOver(job) && progress.eta_seconds > 0) out.push(['Left', duration(progress.eta_seconds)]);
  }
  out.push(['Run time', duration(job.run_seconds)]);
  return out.filter(([, value]) => value !== '');
}

const CHECKPOINT_COLUMNS = [
  {title: 'Step', number: true, cell: (record) => record.step},
  {title: 'Attempt', number: true, cell: (record) => String(record.attempt)},
  {title: 'When', cell: (record) => clock(record.time)},
  {title: 'Path', cell: (record) => record.path},
];

// ---- Traces ----

const TRACE_STEPS = 3;

const TRACE_COLUMNS = [
  {title: 'Rank', number: true, cell: (trace) => String(trace.rank)},
  {title: 'Steps', cell: (trace) => trace.steps ? `${trace.first_step} to ${Number(trace.first_step) + trace.steps - 1}` : ''},
  {title: 'File', cell: (trace) => trace.path || trace.error || 'not yet'},
];

function drawTrace(job) {
  const trace = job.trace;
  $('trace').hidden = job.state !== 'RUNNING' || Boolean(trace && !trace.complete);
  $('trace-line').textContent = !trace ? 'None was asked for.' :
    `${trace.complete ? 'Complete' : 'Being recorded'}: attempt ${trace.attempt}, asked for ${clock(trace.requested_at)}. ` +
    'Open the files in ui.perfetto.dev or chrome://tracing.';
  $('traces').replaceChildren(...(trace ? [makeTable(TRACE_COLUMNS, trace.ranks, '')] : []));
}

async function traceJob() {
  // More ranks than one trace takes: the first ones.
  const ranks = Array.from({length: Math.min(64, shown.ranks)}, (_, rank) => rank);
  const body = JSON.stringify({ranks, steps: TRACE_STEPS, request_id: randomId()});
  try {
    await post(`/api/jobs/${encodeURIComponent(shown.id)}/trace`, 'application/json', body);
    showFault('');
  } catch (fault) {
    showFault(fault.message);
    return;
  }
  refresh();
}

function drawJob(job, history) {
  $('job-title').textContent = job.spec.name || job.job_id;
  const fleet = job.fleet ? ` · ${job.fleet}, ${plural(job.attempt_ranks, 'rank')}` : '';
  const owner = job.user ? ` · ${job.user}` : '';
  $('job-line').replaceChildren(
    makeState(job.state), ` · ${job.job_id}${owner}${fleet} · submitted ${clock(job.submitted_at)}`);
  $('job-reason').textContent = [job.reason, ...job.stragglers].filter((s) => s).join('; ');
  const progress = job.progress;
  $('job-progress').hidden = !progress || Number(progress.total_steps) === 0;
  if (progress) $('job-progress').value = Number(progress.step) / Math.max(1, Number(progress.total_steps));
  $('job-figures').replaceChildren(...figures(job).map(
    ([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, String(value)))));
  shown.ranks = job.attempt_ranks;
  drawTrace(job);
  $('cancel').hidden = isOver(job) || job.state === 'CANCELLING';
  // An attempt reports once before its first step, of which there is no speed yet.
  const points = history.points.map((p) => ({...p, step: Number(p.step)}))
    .filter((p) => p.step > 0 && p.images_per_second > 0);
  drawChart($('chart-loss'), points, (p) => p.loss);
  drawChart($('chart-rate'), points, (p) => p.images_per_second);
  $('ranks').replaceChildren(job.ranks.length ? makeRanks(job.ranks) :
    make('p', {class: 'faint'}, 'No rank is at work on it.'));
  const known = history.checkpoints.slice().reverse();
  if (job.last_checkpoint !== '' && !(known.length && known[0].path === job.last_checkpoint)) {
    known.unshift({step: job.last_checkpoint_step, attempt: '', time: 0, path: job.last_checkpoint});
  }
  $('checkpoints').replaceChildren(makeTable(CHECKPOINT_COLUMNS, known, 'There is none yet.'));
  $('spec').textContent = JSON.stringify(job.spec, null, 2);
}

// What is known of the job on show.
let shown = {id: '', step: '', history: null, log: '0', ranks: 0};

async function showJob(id) {
  if (shown.id !== id) {
    shown = {id, step: '', history: null, log: '0', ranks: 0};
    $('log').replaceChildren();
  }
  const mine = shown;
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  const job = await ask(path);
  const step = `${job.attempt} ${job.progress ? job.progress.step : ''} ${job.last_checkpoint}`;
  if (mine.history === null || mine.step !== step) {
    mine.history = await ask(`${path}/history`);
    mine.step = step;
  }
  const lines = (await ask(`${path}/logs?after=${mine.log}`)).lines;
  return () => {
    drawJob(job, mine.history);
    addLog(lines);
    if (lines.length) mine.log = lines[lines.length - 1].sequence;
  };
}

function addLog(lines) {
  const log = $('log');
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
  for (const line of lines) {
    const time = new Date(line.time * 1000).toLocaleTimeString();
    log.append(make('div', {class: line.severity.replace(/\W/g, '')},
                    `${time} [${line.attempt}.${line.rank}] ${line.text}`));
  }
  while (log.childElementCount > LOG_LINES) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function cancelJob() {
  const id = shown.id;
  if (!confirm(`Cancel job ${id}? It saves a checkpoint and stops.`)) return;
  try {
    await post(`/api/jobs/${encodeURIComponent(id)}/cancel`, 'application/json', '{}');
    showFault('');
  } catch (fault) {
    showFault(fault.message);
    return;
  }
  refresh();
}

// ---- Charts ----

// Round numbers between low and high.
function ticks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const unit = [1, 2, 5, 10].map((f) => f * power).find((u) => u >= raw);
  const out = [];
  for (let i = Math.ceil(low / unit); i * unit <= high + unit * 1e-6; ++i) out.push(i * unit);
  return out;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${number(value / 1e6, 3)}M`;
  if (size >= 1e4) return `${number(value / 1e3, 3)}k`;
  return number(value, 3);
}

function drawChart(box, points, value) {
  const good = points.filter((p) => Number.isFinite(value(p)));
  if (good.length < 2) {
    box.replaceChildren(make('p', {class: 'faint'}, 'Nothing was reported yet.'));
    return;
  }
  const width = 480, height = 220, left = 50, right = 12, top = 20, bottom = 26;
  const values = good.map(value);
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = [low - Math.abs(low) / 10 - 1e-9, high + Math.abs(high) / 10 + 1e-9];
  const first = good[0].step, last = good[good.length - 1].step;
  const x = (step) => left + (step - first) / Math.max(1, last - first) * (width - left - right);
  const y = (v) => height - bottom - (v - low) / (high - low) * (height - top - bottom);
  const svg = makeSvg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img'});
  svg.append(makeSvg('title', {}, `from ${short(values[0])} at step ${first} to ` +
                     `${short(values[values.length - 1])} at step ${last}`));
  for (const tick of ticks(low, high, 4)) {
    svg.append(makeSvg('line', {class: 'grid', x1: left, x2: width - right, y1: y(tick), y2: y(tick)}),
               makeSvg('text', {x: left - 6, y: y(tick) + 4, 'text-anchor': 'end'}, short(tick)));
  }
  for (const tick of ticks(first, last, 4)) {
    svg.append(makeSvg('text', {x: x(tick), y: height - 8, 'text-anchor': 'middle'}, short(tick)));
  }
  const path = good.map((p, i) => `${i ? 'L' : 'M'}${x(p.step).toFixed(1)} ${y(values[i]).toFixed(1)}`);
  const mark = makeSvg('circle', {class: 'mark', r: 4});
  const reading = makeSvg('text', {class: 'reading', x: width - right, y: 12, 'text-anchor': 'end'});
  const read = (i) => {
    mark.setAttribute('cx', x(good[i].step));
    mark.setAttribute('cy', y(values[i]));
    reading.textContent = `step ${good[i].step}: ${number(values[i])}`;
  };
  svg.append(makeSvg('path', {class: 'curve', d: path.join('')}), mark, reading);
  read(good.length - 1);
  svg.addEventListener('pointermove', (event) => {
    const frame = svg.getBoundingClientRect();
    const at = (event.clientX - frame.left) / frame.width * width;
    let nearest = 0;
    good.forEach((p, i) => {
      if (Math.abs(x(p.step) - at) < Math.abs(x(good[nearest].step) - at)) nearest = i;
    });
    read(nearest);
  });
  svg.addEventListener('pointerleave', () => read(good.length - 1));
  box.replaceChildren(svg);
}

// ---- Submitting ----

function randomId() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return [...random].map((b) => b.toString(16).padStart(2, '0')).join('');
}

// One for each text, so that a submission that is sent twice makes one job.
let submission = {text: null, id: ''};

function submissionId(text) {
  if (submission.text !== text) {
    submission = {text, id: randomId()};
  }
  return submission.id;
}

async function submitJob(event) {
  event.preventDefault();
  const text = $('submit-text').value;
  const answer = $('submit-answer');
  answer.textContent = 'The job is being checked …';
  try {
    const made = await post(`/api/jobs?submission_id=${submissionId(text)}`, 'application/yaml', text);
    answer.textContent = '';
    location.hash = `#job/${encodeURIComponent(made.job_id)}`;
  } catch (fault) {
    answer.textContent = fault.message;
    if (fault.status === 401) askForToken(fault.message);
  }
}

async function readJobFile() {
  const file = $('submit-file').files[0];
  if (file) $('submit-text').value = await file.text();
}

// ---- Pages ----

const PAGES = {
  jobs: showJobs,
  fleets: showFleets,
  job: showJob,
  submit: async () => () => {},
};

function askForToken(message) {
  clearTimeout(state.timer);
  ++state.run;
  for (const page of Object.keys(PAGES)) $(page).hidden = true;
  $('login').hidden = false;
  showFault(state.token ? message : '');
  $('token').focus();
}

async function refresh() {
  clearTimeout(state.timer);
  const run = ++state.run;
  const [wanted, argument] = location.hash.slice(1).split('/').map(decodeURIComponent);
  const page = Object.hasOwn(PAGES, wanted) ? wanted : 'jobs';
  try {
    const draw = await PAGES[page](argument || '');
    if (run !== state.run) return;
    for (const name of Object.keys(PAGES)) $(name).hidden = name !== page;
    for (const link of document.querySelectorAll('nav a')) {
      link.toggleAttribute('aria-current', link.hash === `#${page}`);
    }
    $('login').hidden = true;
    $('forget').hidden = state.token === '';
    draw();
    showFault('');
  } catch (fault) {
    if (run !== state.run) return;
    if (fault.status === 401) return askForToken(fault.message);
    showFault(fault.message);
  }
  if (page !== 'submit' && !document.hidden) state.timer = setTimeout(refresh, POLL_MS);
}

function setToken(token) {
  state.token = token;
  if (token) sessionStorage.setItem('token', token);
  else sessionStorage.removeItem('token');
  shown = {id: '', step: '', history: null, log: '0', ranks: 0};
  refresh();
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  setToken($('token').value.trim());
  $('token').value = '';
});
$('forget').addEventListener('click', () => setToken(''));
$('trace').addEventListener('click', traceJob);
$('cancel').addEventListener('click', cancelJob);
$('submit-form').addEventListener('submit', submitJob);
$('submit-file').addEventListener('change', readJobFile);
addEventListener('hashchange', refresh);
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
refresh();
