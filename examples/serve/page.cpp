#include "page.hpp"

namespace serve::inline DSV3_ISA {

const char* const page = R"html(<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dsv3</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 0 auto; padding: 1rem; display: flex; flex-direction: column;
    min-height: 100vh; box-sizing: border-box; }
  h1 { font-size: 1.1rem; margin: 0 0 .5rem; }
  #talk { flex: 1; }
  .message { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; padding: .5rem .75rem; border-radius: .5rem; }
  .user { background: color-mix(in srgb, currentColor 12%, transparent); margin-left: 15%; }
  .error { color: #c33; }
  .reasoning { opacity: .6; font-size: .9em; white-space: pre-wrap; }
  form { position: sticky; bottom: 0; display: flex; gap: .5rem; padding: .5rem 0; background: Canvas; }
  textarea { flex: 1; font: inherit; resize: vertical; }
  details { margin-bottom: .5rem; } label { display: inline-block; margin-right: 1rem; }
  #figures { font-size: .85em; opacity: .7; min-height: 1.5em; }
</style>
<h1>dsv3 <span id="model"></span></h1>
<details>
  <summary>Settings</summary>
  <label>System prompt <input id="system" size="40"></label>
  <label>Temperature <input id="temperature" type="number" min="0" max="2" step="0.1" value="0.6"></label>
  <label>Most tokens <input id="tokens" type="number" min="1" placeholder="no limit"></label>
  <label><input id="thinking" type="checkbox"> Reasoning (V3.1)</label>
  <label>API key <input id="key" type="password" autocomplete="off"></label>
</details>
<div id="talk" aria-live="polite"></div>
<div id="figures"></div>
<form id="form">
  <textarea id="text" rows="2" placeholder="Message" autofocus></textarea>
  <button id="send">Send</button>
  <button id="stop" type="button" disabled>Stop</button>
  <button id="clear" type="button">Clear</button>
</form>
<script>
"use strict";
const $ = id => document.getElementById(id);
let messages = [], running = null, model = null;

const headers = () => ({"Content-Type": "application/json", ...($("key").value ? {Authorization: "Bearer " + $("key").value} : {})});

async function findModel() {
  const response = await fetch("/v1/models", {headers: headers()});
  const json = await response.json();
  if (!response.ok) throw new Error(json.error.message);
  model = json.data[0].id;
  $("model").textContent = model;
}

function add(kind, text) {
  const element = document.createElement("div");
  element.className = "message " + kind;
  element.textContent = text;
  $("talk").append(element);
  element.scrollIntoView({block: "end"});
  return element;
}

// The objects of a stream of "data: {...}" lines.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines)
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function answer() {
  const system = $("system").value.trim(), element = add("assistant", "");
  const reasoning = document.createElement("div"), content = document.createElement("div");
  reasoning.className = "reasoning";
  element.append(reasoning, content);
  const start = performance.now();
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  try {
    if (!model) await findModel();
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), signal: running.signal,
      body: JSON.stringify({
        model, stream: true, stream_options: {include_usage: true}, temperature: Number($("temperature").value),
        messages: [...(system ? [{role: "system", content: system}] : []), ...messages],
        ...($("tokens").value ? {max_completion_tokens: Number($("tokens").value)} : {}),
        chat_template_kwargs: {thinking: $("thinking").checked},
      })
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta ?? {};
      reasoning.append(delta.reasoning_content ?? "");
      content.append(delta.content ?? "");
      if (event.usage) {
        const n = event.usage.completion_tokens, seconds = (performance.now() - start) / 1000;
        $("figures").textContent = `${n} tokens, ${(n / seconds).toFixed(1)} tokens/s; prompt ${event.usage.prompt_tokens}`;
      }
      if (innerHeight + scrollY >= document.body.scrollHeight - 100) element.scrollIntoView({block: "end"});
    }
  } catch (error) {
    if (error.name === "AbortError") $("figures").textContent = "stopped";
    else add("error", error.message);
  } finally {
    running = null;
    $("send").disabled = false;
    $("stop").disabled = true;
  }
  if (content.textContent) messages.push({role: "assistant", content: content.textContent});
  else if (!reasoning.textContent) element.remove();
}

$("form").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value;
  if (running || !text.trim()) return;
  $("text").value = "";
  add("user", text);
  messages.push({role: "user", content: text});
  answer();
});
$("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  $("talk").replaceChildren();
  $("figures").textContent = "";
});
findModel().catch(error => add("error", error.message));
</script>
</html>
)html";

}  // namespace serve::inline DSV3_ISA
