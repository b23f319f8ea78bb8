// The page: it takes what the server sends, and shows it. All texts are set as text, never as HTML.
"use strict";

const settings = JSON.parse(document.documentElement.dataset.settings);
const $ = (id) => document.getElementById(id);
const VIEWS = ["overview", "channels", "subscriptions", "durable", "gaps", "dead", "outbox"];
const SHOWN = 200; // rows of a table, unless all are asked for

let look = null, past = { points: [], gaps: [] }, isPaused = false, view = "overview";
const subscriptionsOf = new Map(); // by the listener's id
let letters = [], entries = [], chosenOutbox = null, followed = null, arrived = [];

// --- formats ---

const number = (value) => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
const rate = (value) => value === null || value === undefined ? "–" : value > 0 && value < 10 ? value.toFixed(1) : number(value);
const percent = (value) => value === null || value === undefined ? "–" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} days`;
}
function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (bytes >= 1000 && at < units.length - 1) { bytes /= 1000; at += 1; }
  return `${bytes.toFixed(at && bytes < 10 ? 1 : 0)} ${units[at]}`;
}
const time = (text) => text ? new Date(text).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : "–";
const ago = (text) => text ? seconds(Math.max(0, (look ? look.at : Date.now() / 1000) - Date.parse(text) / 1000)) : "–";

// --- elements ---

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function button(text, act, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", (event) => { event.stopPropagation(); act(); });
  return made;
}

// --- tables: columns are [key, heading, cell, class]; a cell returns a text or an element ---

const sorted = new Map(); // the box's id -> [key, whether downwards]
const complete = new Set(); // the ids of boxes that show all their rows
const drawers = new Map(); // the box's id -> how to draw it again

function drawTable(id, columns, rows, options = {}) {
  drawers.set(id, () => drawTable(id, columns, rows, options));
  const box = $(id), wanted = $("filter").value.trim().toLowerCase();
  let found = options.filtered === false || !wanted ? rows.slice()
    : rows.filter((row) => columns.some(([key]) => String(row[key] ?? "").toLowerCase().includes(wanted)));
  const [by, isDown] = sorted.get(id) ?? options.sort ?? [null, false];
  if (by) {
    const compare = (a, b) => typeof a === "number" || typeof b === "number" ? (a ?? -1) - (b ?? -1)
      : String(a ?? "").localeCompare(String(b ?? ""));
    found.sort((a, b) => (isDown ? -1 : 1) * compare(a[by], b[by]));
  }
  const total = found.length;
  if (!complete.has(id)) found = found.slice(0, SHOWN);
  if (!rows.length) {
    box.replaceChildren(element("p", options.empty ?? "None.", "quiet"));
    return;
  }
  const focused = findFocus(box);
  const table = element("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  for (const [key, heading, , className] of columns) {
    const cell = element("th", null, className);
    cell.scope = "col";
    if (heading) {
      const sorter = button(heading, () => {
        sorted.set(id, [key, by === key ? !isDown : className === "number"]);
        drawers.get(id)();
      });
      sorter.dataset.key = `sort ${key}`;
      cell.append(sorter);
    }
    if (by === key) cell.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    head.append(cell);
  }
  for (const row of found) {
    const line = body.insertRow();
    line.dataset.key = options.key ? options.key(row) : `row ${line.rowIndex}`;
    if (options.choose) {
      line.tabIndex = 0;
      line.addEventListener("click", () => options.choose(row));
    }
    if (options.chosen?.(row)) { line.classList.add("chosen"); line.setAttribute("aria-selected", "true"); }
    for (const [key, , show, className] of columns) {
      const cell = line.insertCell();
      if (className) cell.className = className;
      const shown = show ? show(row[key], row) : row[key] ?? "–";
      if (shown instanceof Node) cell.append(shown); else { cell.textContent = shown; if (String(shown).length > 40) cell.title = shown; }
    }
  }
  const caption = table.createCaption();
  caption.dataset.key = "caption";
  caption.append(found.length < total ? `${found.length} of ${number(total)} ` : `${number(total)} ${total === 1 ? "row" : "rows"}`);
  if (found.length < total) caption.append(button("show all", () => { complete.add(id); drawers.get(id)(); }, "link"));
  box.replaceChildren(table);
  if (focused) {
    const keeper = [...box.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused.key);
    if (keeper) (focusable(keeper)[focused.place] ?? keeper).focus();
  }
}

// What has the focus in a table, so that the same has it after the table was drawn again.
function findFocus(box) {
  if (!box.contains(document.activeElement)) return null;
  const keeper = document.activeElement.closest("[data-key]");
  return keeper && { key: keeper.dataset.key, place: focusable(keeper).indexOf(document.activeElement) };
}

function focusable(keeper) {
  return [keeper, ...keeper.querySelectorAll("button, input")];
}

const mood = (text, className) => element("span", text, className);
const state = (value, row) => mood(value === "listening" && row.standby ? "listening (leader)" : value,
  value === "listening" ? row.why ? "warn" : "good" : value === "standby" ? "" : "bad");

// --- views ---

function draw() {
  if (!look) return;
  const listeners = look.listeners;
  const channels = listeners.flatMap((one) => one.channels.map((row) => ({ ...row, listener: one })));
  const dispatchers = listeners.flatMap((one) => one.dispatchers.map((row) => ({ ...row, listener: `${one.host} ${one.pid}` })));
  const durable = listeners.flatMap((one) => one.durable);
  const letterCount = look.log ? look.log.positions.reduce((sum, one) => sum + one.dead, 0) : 0;
  const silent = look.silent.length;
  const hearing = listeners.filter((one) => one.state === "listening").length;
  const status = look.problem ? ["can't look", "bad"] : !hearing ? ["nobody listens", "bad"]
    : silent || listeners.some((one) => one.why) ? ["listening, with problems", "warn"] : ["listening", "good"];
  $("status").replaceChildren(mood(`${status[0]} · ${clock(look.at)}`, status[1]));
  $("problem").hidden = !look.problem;
  $("problem").textContent = look.problem ?? "";
  ({
    overview() {
      const point = past.points[past.points.length - 1] ?? {};
      const sum = (key) => listeners.reduce((total, one) => total + one[key], 0);
      drawTiles([
        ["Listeners", `${hearing}${listeners.length > hearing ? ` + ${listeners.length - hearing} standby` : ""}`, hearing && !silent ? "" : "bad"],
        ["Notifications a second", rate(point.received)], ["Deliveries a second", rate(point.delivered)],
        ["Delay, 95 %", seconds(point.delay_p95)], ["Round trip", seconds(point.round_trip)],
        ["Waiting", number(point.waiting), dispatchers.some((one) => one.full) ? "bad" : ""],
        ["Failed", number(sum("errors")), sum("errors") ? "warn" : ""], ["Dropped", number(sum("dropped")), sum("dropped") ? "bad" : ""],
        ["Gaps", number(sum("gaps")), sum("gaps") ? "warn" : ""], ["Lag", seconds(point.lag_seconds)],
        ["Dead letters", number(letterCount), letterCount ? "bad" : ""], ["NOTIFY queue", percent(point.queue_usage), point.queue_usage > 0.1 ? "bad" : ""],
      ]);
      drawPlots();
      drawTable("listeners", [
        ["state", "State", state], ["standby", "Group"], ["host", "Host"], ["pid", "Pid", null, "number"],
        ["kind", "For", (kind, row) => row.app ? `${kind}: ${row.app}` : kind], ["since", "For how long", ago],
        ["received", "Received", number, "number"], ["rate", "a second", rate, "number"],
        ["channel_count", "Channels", number, "number"], ["subscription_count", "Subscriptions", number, "number"],
        ["version", "Version"], ["why", "Why", (why) => why ?? "", "long"],
      ], listeners, { key: (row) => row.id, empty: "No listener has answered." });
      drawTable("silent", [
        ["backend_pid", "Session", null, "number"], ["application", "Application"], ["role", "Role"], ["address", "From"],
        ["since", "Since", time], ["silent", "", () => mood("doesn't answer", "bad")],
      ], look.silent, { empty: "", filtered: false });
      drawTable("dispatchers", [
        ["listener", "Listener"], ["name", "Dispatcher"],
        ["waiting", "Waiting", (value, row) => mood(`${number(value)} of ${number(row.size)}`, row.full ? "bad" : ""), "number"],
        ["delivered", "Delivered", number, "number"], ["rate", "a second", rate, "number"],
        ["delay", "Median", (delay) => seconds(delay?.median), "number"], ["p95", "95 %", (_, row) => seconds(row.delay?.p95), "number"],
        ["dropped", "Dropped", number, "number"], ["why", "Why", (why) => mood(why ?? "", "warn"), "long"],
      ], dispatchers, { filtered: false });
    },
    channels() {
      drawTable("channel-table", [
        ["name", "Channel", (name) => button(name, () => follow(name), "link")],
        ["where", "Listener", (_, row) => `${row.listener.host} ${row.listener.pid}`],
        ["received", "Received", number, "number"], ["rate", "a second", rate, "number"],
        ["durable", "Durable", (value) => value ? "yes" : ""], ["muted", "Muted", (value) => value ? mood("muted", "warn") : ""],
        ["mute", "", (_, row) => muteButton(row.listener, row.name, null, row.muted)],
      ], channels, { sort: ["rate", true], key: (row) => `${row.listener.id} ${row.name}` });
      drawNotifications();
    },
    subscriptions() {
      const rows = listeners.flatMap((one) => (subscriptionsOf.get(one.id) ?? []).map((row) => ({ ...row, listener: one })));
      drawTable("subscription-table", [
        ["id", "Subscription"], ["channel", "Channel"], ["target", "Goes to"], ["queue", "Queue", (value) => value ?? ""],
        ["dispatcher", "By"], ["durable", "Durable", (value) => value ? "yes" : ""],
        ["muted", "Muted", (value) => value ? mood("muted", "warn") : ""],
        ["mute", "", (_, row) => muteButton(row.listener, row.channel, row.id, row.muted)],
      ], rows, { key: (row) => `${row.listener.id} ${row.channel} ${row.id}` });
    },
    durable() {
      const log = look.log;
      $("log-state").textContent = log ? `The log has ${size(log.state.size)}${log.state.quota ? ` of ${size(log.state.quota)}` : ""}${log.state.is_full ? ", and is full: nothing can be published" : ""}.`
        : "The durable log isn't installed here, or this role may not read it.";
      drawTable("position-table", [
        ["name", "Subscription"], ["channel", "Channel"], ["lag", "Behind", number, "number"], ["lag_seconds", "Oldest", seconds, "number"],
        ["rate", "a second", rate, "number"], ["failed", "Retried", number, "number"],
        ["dead", "Dead", (value) => mood(number(value), value ? "bad" : ""), "number"], ["kept_bytes", "Keeps", size, "number"],
        ["reader_pid", "Read by", (pid, row) => pid ? `session ${pid}` : mood(`nobody since ${time(row.unread_since)}`, "warn")],
      ], log ? log.positions : [], { sort: ["lag_seconds", true], empty: "No durable subscription.", key: (row) => `${row.channel} ${row.name}` });
      drawTable("holder-table", [
        ["kind", "What holds space back"], ["name", "Subscription"], ["pid", "Session"], ["gid", "Prepared transaction"], ["size", "How much", size, "number"], ["since", "Since", time],
      ], log ? log.state.holders : [], { empty: "", filtered: false });
    },
    gaps() {
      drawGaps($("gap-line"), past.gaps);
      drawTable("gap-table", [
        ["since", "Since", time], ["until", "Until", time],
        ["lasted", "Lasted", (_, row) => seconds((Date.parse(row.until) - Date.parse(row.since)) / 1000), "number"],
        ["channel_count", "Channels", (value, row) => value > row.channels.length || value > 3 ? number(value) : row.channels.join(", ")],
        ["reason", "Reason", null, "long"],
      ], past.gaps, { sort: ["since", true], empty: "No gap since this console has started." });
    },
    dead: drawLetters,
    outbox() {
      drawTable("outbox-table", [
        ["name", "Outbox"], ["subscription", "Relay"], ["waiting", "Waiting", number, "number"], ["oldest_seconds", "Oldest", seconds, "number"],
        ["rate", "a second", rate, "number"], ["failed", "Retried", number, "number"],
        ["dead", "Dead", (value) => mood(number(value), value ? "bad" : ""), "number"],
        ["reader_pid", "Relayed by", (pid, row) => pid ? `session ${pid}` : mood(`nobody since ${time(row.unread_since)}`, "warn")],
      ], look.log ? look.log.outboxes : [], {
        empty: "No outbox.", key: (row) => String(row.sub), filtered: false,
        choose: (row) => { chosenOutbox = row.sub; loadEntries(); }, chosen: (row) => row.sub === chosenOutbox,
      });
      drawEntries();
    },
  })[view]();
}

function drawTiles(tiles) {
  $("tiles").replaceChildren(...tiles.map(([name, value, className]) => {
    const made = element("div", null, "tile");
    made.append(element("b", value, className), element("span", name, "quiet"));
    return made;
  }));
}

function drawPlots() {
  drawLines($("plot-rates"), past.points, ["received", "delivered"], rate);
  drawLines($("plot-delay"), past.points, ["delay", "delay_p95"], seconds);
  drawLines($("plot-waiting"), past.points, ["waiting"], number);
  drawLines($("plot-lag"), past.points, ["lag_seconds"], seconds);
}

// --- muting ---

function muteButton(listener, channel, subscription, isMuted) {
  if (settings.readOnly || !listener.takes_orders) return "";
  return button(isMuted ? "Unmute" : "Mute", async () => {
    const verb = isMuted ? "unmute" : "mute";
    await change("/api/mute", { listener: listener.id, verb, channel, subscription });
  });
}

// --- the last notifications of a channel ---

function follow(channel) {
  followed?.source.close();
  arrived = [];
  const source = new EventSource(`/api/notifications?channel=${encodeURIComponent(channel)}`);
  followed = { channel, source };
  source.addEventListener("notification", (event) => {
    arrived.unshift({ at: new Date().toISOString(), ...JSON.parse(event.data) });
    arrived.length = Math.min(arrived.length, 100);
    if (view === "channels" && !isPaused) drawNotifications();
  });
  source.addEventListener("problem", (event) => {
    arrived.unshift({ at: new Date().toISOString(), payload: JSON.parse(event.data) });
    source.close();
    drawNotifications();
  });
  drawNotifications();
}

function drawNotifications() {
  $("follow").hidden = !followed;
  if (!followed) return;
  $("followed").textContent = followed.channel;
  $("hidden-payloads").hidden = settings.payloads;
  drawTable("notifications", [
    ["at", "At", time], ["pid", "From session", (pid) => pid ?? "", "number"], ["size", "Size", (bytes) => bytes === undefined ? "" : size(bytes), "number"],
    ["payload", "Payload", (payload, row) => row.gap ? mood(`a gap: ${row.gap.reason}`, "bad") : `${payload ?? "…"}${row.left_out ? ` (${row.left_out} left out before)` : ""}`, "long"],
  ], arrived, { empty: "Nothing yet.", filtered: false });
}

$("unfollow").addEventListener("click", () => { followed?.source.close(); followed = null; drawNotifications(); });

// --- dead letters and outboxes ---

const chosenLetters = new Set(), chosenEntries = new Set();

async function get(path) {
  const answer = await fetch(path);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.problem);
  return found;
}

async function change(path, body) {
  const answer = await fetch(path, {
    method: "POST", body: JSON.stringify(body),
    headers: { "content-type": "application/json", "x-pgnotifier-token": settings.secret },
  });
  const found = await answer.json();
  if (!answer.ok) { $("problem").textContent = found.problem; $("problem").hidden = false; throw new Error(found.problem); }
  return found.count;
}

function ask(question) {
  $("question").textContent = question;
  $("confirm").returnValue = "no";
  $("confirm").showModal();
  return new Promise((settle) => $("confirm").addEventListener("close", () => settle($("confirm").returnValue === "yes"), { once: true }));
}

function choice(set, key, redraw, label) {
  const box = element("input");
  box.type = "checkbox";
  box.checked = set.has(key);
  box.dataset.key = `choose ${key}`;
  box.setAttribute("aria-label", label);
  box.addEventListener("click", (event) => { event.stopPropagation(); if (box.checked) set.add(key); else set.delete(key); redraw(); });
  return box;
}

async function loadLetters() {
  try { letters = await get("/api/dead"); } catch (error) { letters = []; $("dead-said").textContent = error.message; }
  for (const one of [...chosenLetters]) if (!letters.some((row) => row.n === one)) chosenLetters.delete(one);
  drawLetters();
}

function drawLetters() {
  $("dead-retry").disabled = $("dead-drop").disabled = settings.readOnly || !chosenLetters.size;
  drawTable("dead-table", [
    ["chosen", "", (_, row) => choice(chosenLetters, row.n, drawLetters, `Choose ${row.n}`)],
    ["n", "Number", null, "number"], ["name", "Subscription"], ["channel", "Channel"], ["id", "Entry", null, "number"],
    ["attempts", "Attempts", null, "number"], ["failed_at", "Failed", time], ["error", "Error", null, "long"],
  ], letters, { empty: "No dead letter.", key: (row) => `letter ${row.n}`, choose: showLetter });
}

async function showLetter(row) {
  const box = $("dead-letter");
  try {
    const found = await get(`/api/dead/${row.n}`);
    const payload = found.payload ?? "hidden; start the console with --show-payloads to see it";
    box.textContent = `entry ${found.id} for ${found.name} on ${found.channel}\npayload: ${payload}\n\n${found.traceback ?? found.error}`;
  } catch (error) { box.textContent = error.message; }
  box.hidden = false;
  box.focus();
}

async function act(said, path, body, word, reload) {
  try { $(said).textContent = `${await change(path, body)} ${word}`; } catch (error) { $(said).textContent = error.message; }
  await reload();
}

$("dead-load").addEventListener("click", loadLetters);
$("dead-retry").addEventListener("click", () => act("dead-said", "/api/dead/retry", { numbers: [...chosenLetters] }, "delivered again", loadLetters));
$("dead-drop").addEventListener("click", async () => {
  if (await ask(`Drop ${chosenLetters.size} dead letters for good?`)) await act("dead-said", "/api/dead/drop", { numbers: [...chosenLetters] }, "dropped", loadLetters);
});

async function loadEntries() {
  try {
    entries = [...await get(`/api/outbox/${chosenOutbox}?failed`), ...await get(`/api/outbox/${chosenOutbox}`)];
  } catch (error) { entries = []; $("outbox-said").textContent = error.message; }
  chosenEntries.clear();
  draw();
}

function drawEntries() {
  if (chosenOutbox === null) { $("entry-table").replaceChildren(element("p", "Choose an outbox to see what waits in it and what has failed.", "quiet")); return; }
  const chosen = entries.filter((one) => chosenEntries.has(one.id));
  $("outbox-drop").disabled = settings.readOnly || !chosen.length;
  $("outbox-retry").disabled = settings.readOnly || !chosen.some((one) => one.n !== null);
  drawTable("entry-table", [
    ["chosen", "", (_, row) => choice(chosenEntries, row.id, drawEntries, `Choose ${row.id}`)],
    ["state", "State", (value) => mood(value, { dead: "bad", failed: "warn" }[value] ?? "")], ["id", "Entry", null, "number"], ["task", "Task"],
    ["queue", "Queue", (value) => value ?? "as routed"], ["age", "Age", seconds, "number"], ["attempts", "Attempts", (value) => value ?? "", "number"],
    ["error", "Reason", (value) => value ?? "", "long"],
  ], entries, { empty: "Nothing waits, and nothing has failed.", key: (row) => `entry ${row.id}` });
}

$("outbox-retry").addEventListener("click", () => {
  const numbers = entries.filter((one) => chosenEntries.has(one.id) && one.n !== null).map((one) => one.n);
  return act("outbox-said", "/api/dead/retry", { numbers }, "sent again", loadEntries);
});
$("outbox-drop").addEventListener("click", async () => {
  if (!await ask(`Drop ${chosenEntries.size} messages for good?`)) return;
  const chosen = entries.filter((one) => chosenEntries.has(one.id));
  const failed = chosen.filter((one) => one.n !== null).map((one) => one.n);
  const waiting = chosen.filter((one) => one.n === null).map((one) => one.id);
  if (failed.length) await act("outbox-said", "/api/dead/drop", { numbers: failed }, "dropped", async () => {});
  if (waiting.length) await act("outbox-said", "/api/outbox/drop", { sub: chosenOutbox, entries: waiting }, "dropped", async () => {});
  await loadEntries();
});

// --- views, keys, theme ---

function show(name) {
  view = name;
  for (const one of VIEWS) {
    $(one).hidden = one !== name;
    $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  window.history.replaceState(null, "", `#${name}`);
  if (name === "dead") loadLetters();
  draw();
}

VIEWS.forEach((name) => $(`tab-${name}`).addEventListener("click", () => show(name)));
$("filter").addEventListener("input", draw);
$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(isPaused));
});
function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
}
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  setTheme(isDark ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});
setTheme(localStorage.getItem("theme"));

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || $("confirm").open) return;
  if (target.matches("input[type=search]")) { if (event.key === "Escape") { target.value = ""; draw(); target.blur(); } return; }
  if (target.matches("[role=tab]") && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const next = VIEWS[(VIEWS.indexOf(view) + (event.key === "ArrowRight" ? 1 : VIEWS.length - 1)) % VIEWS.length];
    show(next); $(`tab-${next}`).focus(); event.preventDefault();
  } else if (target.matches("tr")) {
    if (event.key === "Enter") target.click();
    else if (event.key === "ArrowDown") { target.nextElementSibling?.focus(); event.preventDefault(); }
    else if (event.key === "ArrowUp") { target.previousElementSibling?.focus(); event.preventDefault(); }
  }
  if (event.key >= "1" && event.key <= String(VIEWS.length)) show(VIEWS[event.key - 1]);
  else if (event.key === "/") { $("filter").focus(); event.preventDefault(); }
  else if (event.key === "p") $("pause").click();
  else if (event.key === "t") $("theme").click();
});
addEventListener("resize", () => { if (view === "overview") drawPlots(); });

// --- events ---

function take(found) {
  for (const one of found.listeners) {
    if (one.subscriptions) subscriptionsOf.set(one.id, one.subscriptions);
    for (const gap of one.last_gaps) {
      if (!past.gaps.some((known) => known.since === gap.since && known.listener === one.id)) past.gaps.push({ ...gap, listener: one.id });
    }
  }
  for (const id of [...subscriptionsOf.keys()]) if (!found.listeners.some((one) => one.id === id)) subscriptionsOf.delete(id);
  if (found.point) {
    past.points.push(found.point);
    while (past.points.length && past.points[0].at < found.at - HOUR) past.points.shift();
  }
  if (isPaused) return;
  look = found;
  if (!isPressed) draw();
}

// A table that is drawn again between the two halves of a click, by mouse or by key, would swallow it.
let isPressed = false;
for (const name of ["pointerdown", "keydown"]) addEventListener(name, () => { isPressed = true; }, true);
for (const name of ["pointerup", "pointercancel", "keyup", "blur"]) addEventListener(name, () => { isPressed = false; }, true);

$("connection").textContent = settings.connection;
$("version").textContent = `pgnotifier ${settings.version}${settings.readOnly ? ", read-only" : ""}`;
const events = new EventSource("/events");
events.addEventListener("history", (event) => { past = JSON.parse(event.data); });
events.addEventListener("look", (event) => take(JSON.parse(event.data)));
events.addEventListener("error", () => { $("status").replaceChildren(mood("the console has stopped; trying again", "bad")); });
show(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview");
