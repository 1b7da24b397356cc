// The talk: what is asked, what is answered, and what of it is kept over a reload. markdown.js draws the answers.
"use strict";

const $ = id => document.getElementById(id);
const view = $("view"), talk = $("talk"), form = $("form"), text = $("text");
const settings = ["system", "temperature", "tokens", "key", "thinking"].map($);

// {role: "user" or "assistant", content}. An answer may have `reasoning`, `open` (the reader has opened it, or folded it),
// `note` (how the answer ended, if not as usual), `failed` (the note tells of an error) and, while it comes, `growing`.
let messages = [];
let running = null;  // the AbortController of the answer that comes
let model = null;

// ---- What is kept. A tab's own storage goes when the tab is closed: talk and key do not stay in a browser that others use.

function save() {
  const values = settings.map(s => [s.id, s.type === "checkbox" ? s.checked : s.value]);
  try {
    sessionStorage.setItem("dsv3", JSON.stringify({messages, draft: text.value, settings: Object.fromEntries(values)}));
  } catch {  // full or switched off: the page works without
  }
}

// Another version of this page, or the reader's hands, may have written it: what is not as expected is left out.
function restore() {
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem("dsv3"));
  } catch {
  }
  for (const setting of settings) {
    const value = kept?.settings?.[setting.id];
    if (setting.type === "checkbox") setting.checked = value === true;
    else if (typeof value === "string") setting.value = value;
  }
  if (typeof kept?.draft === "string") text.value = kept.draft;
  for (const m of Array.isArray(kept?.messages) ? kept.messages : []) {
    if (!["user", "assistant"].includes(m?.role) || typeof m.content !== "string") continue;
    const message = {role: m.role, content: m.content};
    for (const name of ["reasoning", "note"]) if (typeof m[name] === "string") message[name] = m[name];
    for (const name of ["open", "failed"]) if (typeof m[name] === "boolean") message[name] = m[name];
    if (m.growing) message.note = "The page was loaded again before this answer was at its end.";
    add(message);
  }
}

// ---- What is shown

// Adds a message to the talk and returns its element.
function add(message) {
  const element = create("div", "message " + message.role);
  element.message = message;
  if (message.role === "user") {
    element.append(message.content);
  } else {
    element.append(
      create("details", "reasoning", create("summary", "", "Reasoning"), create("div", "markdown")), create("div", "markdown content"),
      create("div", "waiting", "…"), create("p", "note"), create("div", "actions", button("copy", "Copy"), button("again", "Try again")));
  }
  messages.push(message);
  talk.append(element);
  draw(element);
  follow();
  return element;
}

// Draws what has come of an answer.
function draw(element) {
  const {role, content, reasoning = "", open, note = "", failed = false, growing = false} = element.message;
  if (role !== "assistant") return;
  const [thoughts, answer, waiting, line] = element.children;
  element.setAttribute("aria-busy", growing);  // so that it is read aloud once, when it is whole
  thoughts.hidden = !reasoning;
  thoughts.open = open ?? !content;
  drawMarkdown(thoughts.lastChild, reasoning, growing && !content);
  drawMarkdown(answer, content, growing);
  waiting.hidden = !growing || Boolean(content || reasoning);
  line.textContent = note;
  line.classList.toggle("error", failed);
  element.querySelector(".actions .copy").hidden = !content;
}

function show(text, failed = false) {
  $("figures").textContent = text;
  $("figures").classList.toggle("error", failed);
}

function setRunning(controller) {
  running = controller;
  $("send").disabled = $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
}

// ---- Following: the view stays at the talk's end while it is there, whatever grows or shrinks, until the reader scrolls up.

let following = true, lastTop = 0;

const below = () => view.scrollHeight - view.clientHeight - view.scrollTop;
const atEnd = () => below() < 8;

function follow() {
  if (following) view.scrollTop = view.scrollHeight;
  lastTop = view.scrollTop;  // what has moved it was not the reader
  $("to-end").hidden = following || atEnd();
}

view.addEventListener("scroll", () => {
  if (view.scrollTop < lastTop && below() > 1) following = false;
  else if (atEnd()) following = true;
  lastTop = view.scrollTop;
  $("to-end").hidden = following;
});
const sizes = new ResizeObserver(follow);
sizes.observe(view);
sizes.observe(talk);
$("to-end").addEventListener("click", () => {
  following = true;
  follow();
  view.focus({preventScroll: true});  // the button has gone
});

// ---- Talking to the server

class Told extends Error {}  // an error whose message is for the reader

const headers = () => ({"Content-Type": "application/json", ...($("key").value ? {Authorization: "Bearer " + $("key").value} : {})});

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, {headers: headers(), ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Told("The server cannot be reached.");
  }
  if (response.ok) return response;
  const said = (await response.json().catch(() => null))?.error?.message;
  switch (response.status) {
    case 401: throw new Told(`The server ${$("key").value ? "does not know this" : "wants an"} API key. Enter one under Settings.`);
    case 429: throw new Told("The server has too much to do at the moment. Try again a little later.");
    default: throw new Told(typeof said === "string" ? said : `The server answered with status ${response.status}.`);
  }
}

async function findModel() {
  const json = await (await ask("/v1/models")).json();
  model = json.data[0].id;
  $("model").textContent = model;
}

const brokeOff = "The connection broke off before the answer's end.";

// The objects of a stream of "data: {...}" lines, which must end with "data: [DONE]".
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = "";;) {
      const {value, done} = await reader.read();
      if (done) throw new Told(brokeOff);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.trim() === "data: [DONE]") return;
        if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
      }
    }
  } catch (error) {
    throw error.name === "TypeError" ? new Told(brokeOff) : error;
  }
}

// Asks for an answer to the messages so far and shows it as it comes.
async function answer() {
  const system = $("system").value.trim(), start = performance.now();
  const asked = messages.filter(m => m.content).map(({role, content}) => ({role, content}));
  const message = {role: "assistant", content: "", reasoning: "", growing: true}, controller = new AbortController();
  const element = add(message);
  let frame = 0, saved = start;
  setRunning(controller);
  show("");
  try {
    if (!model) await findModel();
    const response = await ask("/v1/chat/completions", {
      method: "POST", signal: controller.signal,
      body: JSON.stringify({
        model, stream: true, stream_options: {include_usage: true},
        messages: [...(system ? [{role: "system", content: system}] : []), ...asked],
        ...($("temperature").value ? {temperature: Number($("temperature").value)} : {}),
        ...($("tokens").value ? {max_completion_tokens: Number($("tokens").value)} : {}),
        chat_template_kwargs: {thinking: $("thinking").checked},
      })
    });
    for await (const event of events(response.body)) {
      controller.signal.throwIfAborted();
      if (event.error) throw new Told(event.error.message);
      const {delta = {}, finish_reason} = event.choices?.[0] ?? {};
      if (delta.content && !message.content && message.reasoning && !following) message.open ??= true;  // the reader is in it
      message.reasoning += delta.reasoning_content ?? "";
      message.content += delta.content ?? "";
      if (finish_reason === "length") message.note = "The answer has reached its limit of tokens.";
      if (event.usage) {
        const n = event.usage.completion_tokens, seconds = (performance.now() - start) / 1000;
        show(`${n} tokens, ${(n / seconds).toFixed(1)} tokens/s; prompt ${event.usage.prompt_tokens}`);
      }
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        draw(element);
        if (performance.now() - saved < 1000) return;
        saved = performance.now();
        save();
      });
    }
  } catch (error) {
    if (controller.signal.aborted) message.note = "Stopped.";
    else {
      message.note = error instanceof Told ? error.message : "Something went wrong: " + error.message;
      message.failed = true;
      model = null;  // the server may have been started with another one
    }
  }
  cancelAnimationFrame(frame);
  delete message.growing;
  draw(element);
  if (running === controller) {  // else this talk is no more
    if (message.note === "Stopped.") show("stopped");
    setRunning(null);
  }
  save();
}

// ---- What the reader does

form.addEventListener("submit", event => {
  event.preventDefault();
  const content = text.value;
  if (running || !content.trim()) return;
  text.value = "";
  fit();
  following = true;
  add({role: "user", content});
  answer();
  save();
});

// Makes the form as tall as what is typed; style.css says where it ends.
function fit() {
  const top = view.scrollTop;  // which the smaller form may change
  text.style.height = "auto";
  text.style.height = text.scrollHeight + 2 + "px";  // and its borders
  view.scrollTop = top;
  follow();
}
text.addEventListener("input", fit);
addEventListener("resize", fit);
text.addEventListener("keydown", event => {
  const composing = event.isComposing || event.keyCode === 229;  // Safari tells an input method's Enter by this number alone
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  form.requestSubmit();
});

$("stop").addEventListener("click", () => {
  running?.abort();
  text.focus();
});

$("clear").addEventListener("click", () => {
  running?.abort();
  setRunning(null);
  messages = [];
  talk.replaceChildren();
  follow();
  show("");
  save();
  text.focus();
});

async function copy(button, content) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(content);
  } catch {  // there is no clipboard for pages that come by plain HTTP from another machine
    const area = create("textarea", "unseen");
    area.value = content;
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = copied ? "Copied" : "Not copied";
  setTimeout(() => button.textContent = "Copy", 1500);
}

talk.addEventListener("click", event => {
  const element = event.target.closest(".message"), clicked = event.target.closest("button"), summary = event.target.closest("summary");
  if (clicked?.className === "copy") {
    const code = clicked.closest(".code");
    copy(clicked, code ? code.querySelector("code").textContent : element.message.content);
  } else if (clicked?.className === "again" && !running) {
    messages.pop();
    element.remove();
    following = true;
    answer();
  } else if (summary) {  // it opens or folds after this
    element.message.open = !summary.parentElement.open;
    following = false;  // so that the summary stays under the pointer
    requestAnimationFrame(() => following = atEnd());
    save();
  }
});

$("settings").addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  $("settings").open = false;
  $("settings").firstElementChild.focus();
});
document.addEventListener("pointerdown", event => {
  if (!$("settings").contains(event.target)) $("settings").open = false;
});
$("settings").addEventListener("input", save);
$("key").addEventListener("change", connect);
addEventListener("pagehide", save);

function connect() {
  findModel().then(() => show(""), error => show(error.message, true));
}

restore();
fit();
connect();
