// OpenAI's client for Node on chat completions: its helpers, which check what they are sent, its errors and its retries.

import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = `${process.env.INN}/v1`;
const client = new OpenAI({ baseURL, apiKey: "sk-anything", maxRetries: 0 });
const asked = (content) => [{ role: "user", content }];
const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const ASKS = 'call weather {"city": "Paris"}';

function weatherTool(cities) {
  const call = ({ city }) => (cities.push(city), `Sunny in ${city}`);
  return [{ type: "function", function: { name: "weather", function: call, parse: JSON.parse, parameters: WEATHER } }];
}

test("a completion and the list of models are read", async () => {
  const answer = await client.chat.completions.create({ model: "scripted", messages: asked("Hi") });
  assert.equal(answer.choices[0].message.content, "You said: Hi");
  assert.ok(answer.usage.total_tokens > 0);
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("scripted") && names.includes("echo"));
  assert.equal((await client.models.retrieve("echo")).id, "echo");
});

for (const model of ["echo", "scripted", "toolbox"]) {
  test(`the stream of ${model} has one end, and behind it the usage that was asked for`, async () => {
    const options = { include_usage: true };
    const stream = await client.chat.completions.create({
      model, messages: asked("Hi"), stream: true, stream_options: options,
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.equal(text.trim(), model === "toolbox" ? "The sum is 3." : "You said: Hi");
    assert.equal(chunks.at(-1).choices.length, model === "echo" ? 1 : 0, "functions report no usage");
    assert.equal(chunks.filter((chunk) => chunk.choices[0]?.finish_reason === "stop").length, 1);
  });
}

test("the helper for streams makes the message of its chunks", async () => {
  const stream = client.chat.completions.stream({ model: "scripted", messages: asked("Hi there") });
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  assert.equal(await stream.finalContent(), "You said: Hi there");
  assert.equal(deltas.join(""), "You said: Hi there");
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
});

for (const stream of [false, true]) {
  test(`runTools calls the client's tools until there is an answer, ${stream ? "streamed" : "at once"}`, async () => {
    const cities = [];
    const runner = client.chat.completions.runTools({
      model: "scripted", messages: asked(`${ASKS}\ncall weather {"city": "Rome"}`), tools: weatherTool(cities), stream,
    });
    assert.equal(await runner.finalContent(), "weather returned Sunny in Paris. weather returned Sunny in Rome.");
    assert.deepEqual(cities, ["Paris", "Rome"]);
  });
}

test("structured output is parsed, streamed and at once", async () => {
  const shape = z.object({ city: z.string(), sunny: z.boolean() });
  const body = { model: "scripted", messages: asked("Where?"), response_format: zodResponseFormat(shape, "place") };
  const parsed = (await client.chat.completions.parse(body)).choices[0].message.parsed;
  assert.equal(typeof shape.parse(parsed).city, "string");
  const final = await client.chat.completions.stream(body).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, parsed);
});

test("errors are of their classes and name the parameter", async () => {
  const create = (body) => client.chat.completions.create({ model: "echo", messages: asked("Hi"), ...body });
  await assert.rejects(create({ model: "nobody" }), (error) => {
    return error instanceof OpenAI.NotFoundError && error.param === "model" && Boolean(error.requestID);
  });
  await assert.rejects(create({ temperature: 7 }), (error) => {
    return error instanceof OpenAI.BadRequestError && error.param === "temperature";
  });
});

test("a failure within a stream is thrown", async () => {
  const stream = await client.chat.completions.create({ model: "breaking", messages: asked("Hi"), stream: true });
  const said = [];
  await assert.rejects(async () => {
    for await (const chunk of stream) said.push(chunk.choices[0]?.delta.content ?? "");
  }, OpenAI.APIError);
  assert.equal(said.join(""), "So far so good.");
});

test("an error after an effect is not tried again", async () => {
  let requests = 0;
  const counting = (...given) => (requests++, fetch(...given));
  const retrying = new OpenAI({ baseURL, apiKey: "sk-anything", maxRetries: 2, fetch: counting });
  await assert.rejects(
    retrying.chat.completions.create({ model: "failing", messages: asked("Hi") }), OpenAI.InternalServerError,
  );
  assert.equal(requests, 1);
});

test("a request that was shed is tried again, and waits as long as it is told", async () => {
  const statuses = [];
  const noting = async (...given) => {
    const answer = await fetch(...given);
    statuses.push(answer.status);
    return answer;
  };
  const options = { baseURL: `${process.env.STRICT_INN}/v1`, apiKey: process.env.STRICT_KEY, fetch: noting };
  const retrying = new OpenAI({ ...options, maxRetries: 2 });
  for (let count = 0; count < 2; count++) await retrying.models.list();
  assert.deepEqual(statuses, [200, 429, 200]);
  const proud = new OpenAI({ ...options, maxRetries: 0 });
  await assert.rejects(proud.models.list(), OpenAI.RateLimitError);
  const stranger = new OpenAI({ ...options, apiKey: "sk-anything" });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("an answer that was lost is given again for the same key, and nothing runs twice", async () => {
  const ids = [];
  const losing = async (...given) => {
    const answer = await fetch(...given);
    ids.push((await answer.clone().json()).id);
    if (ids.length === 1) throw new TypeError("the connection was cut");
    return answer;
  };
  const retrying = new OpenAI({ baseURL, apiKey: "sk-anything", maxRetries: 1, fetch: losing });
  const answer = await retrying.chat.completions.create(
    { model: "echo", messages: asked("Once") }, { headers: { "Idempotency-Key": "lost-once" } },
  );
  assert.equal(ids.length, 2);
  assert.deepEqual(new Set(ids), new Set([answer.id]));
});

test("a stream that its reader aborts ends without an error of another kind", async () => {
  const stream = await client.chat.completions.create({ model: "patient", messages: asked("Hi"), stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) stream.controller.abort();
  }
  assert.ok(stream.controller.signal.aborted);
});
