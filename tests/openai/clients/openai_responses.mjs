// OpenAI's client for Node on Responses and Conversations: helpers, background, resumption, tools, WebSocket.

import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { ResponsesWS } from "openai/resources/responses/ws";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.env.INN}/v1`, apiKey: "sk-anything", maxRetries: 0 });
const WEATHER = {
  type: "function",
  name: "weather",
  description: "The weather.",
  strict: true,
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};
const ASKS = 'call weather {"city": "Paris"}\ncall weather {"city": "Rome"}';
const TERMINAL = ["response.completed", "response.failed", "response.incomplete"];

async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

function outputs(response) {
  const calls = response.output.filter((item) => item.type === "function_call");
  return calls.map(({ call_id, arguments: text }) => {
    return { type: "function_call_output", call_id, output: `Sunny in ${JSON.parse(text).city}` };
  });
}

test("a response is made, found, listed by its input, and deleted", async () => {
  const made = await client.responses.create({ model: "echo", input: "Hi", metadata: { a: "b" } });
  assert.equal(made.output_text.trim(), "You said: Hi");
  const found = await client.responses.retrieve(made.id);
  assert.deepEqual(found.output, made.output);
  assert.deepEqual(found.metadata, { a: "b" });
  const items = await all(client.responses.inputItems.list(made.id));
  assert.equal(items[0].content[0].text, "Hi");
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), OpenAI.NotFoundError);
});

for (const model of ["echo", "scripted", "toolbox", "thinking"]) {
  test(`the helper for streams makes the response of ${model} of its events`, async () => {
    const stream = client.responses.stream({ model, input: "Hi" });
    const deltas = [];
    stream.on("response.output_text.delta", (event) => deltas.push(event.delta));
    const final = await stream.finalResponse();
    assert.equal(final.status, "completed");
    assert.equal(deltas.join(""), final.output_text);
    assert.ok(final.output_text);
    assert.deepEqual((await client.responses.retrieve(final.id)).output.length, final.output.length);
  });
}

test("what is said before is known behind previous_response_id", async () => {
  const first = await client.responses.create({ model: "memory", input: "One" });
  const second = await client.responses.create({ model: "memory", input: "Two", previous_response_id: first.id });
  assert.equal(second.output_text, "One | I heard 1 | Two");
});

test("tools of the client are called, and their outputs are sent back in either way", async () => {
  const first = await client.responses.create({ model: "scripted", input: ASKS, tools: [WEATHER] });
  const answers = outputs(first);
  assert.equal(answers.length, 2);
  const expected = "weather returned Sunny in Paris. weather returned Sunny in Rome.";
  const following = { model: "scripted", input: answers, previous_response_id: first.id, tools: [WEATHER] };
  assert.equal((await client.responses.create(following)).output_text, expected);
  const again = { model: "scripted", store: false, tools: [WEATHER] };
  const input = [{ role: "user", content: ASKS }, ...first.output, ...answers];
  assert.equal((await client.responses.create({ ...again, input })).output_text, expected);
});

test("calls are streamed with their arguments", async () => {
  const final = await client.responses.stream({ model: "scripted", input: ASKS, tools: [WEATHER] }).finalResponse();
  assert.deepEqual(final.output.map((item) => item.parsed_arguments.city), ["Paris", "Rome"]);
});

test("structured output is parsed", async () => {
  const shape = z.object({ city: z.string(), sunny: z.boolean() });
  const text = { format: zodTextFormat(shape, "place") };
  const parsed = (await client.responses.parse({ model: "scripted", input: "Where?", text })).output_parsed;
  assert.equal(typeof shape.parse(parsed).city, "string");
});

test("one in the background is polled until it is done", async () => {
  let polled = await client.responses.create({ model: "echo", input: "Hi", background: true });
  assert.ok(["queued", "in_progress"].includes(polled.status));
  while (["queued", "in_progress"].includes(polled.status)) polled = await client.responses.retrieve(polled.id);
  assert.equal(polled.output_text.trim(), "You said: Hi");
});

test("one in the background is cancelled", async () => {
  const made = await client.responses.create({ model: "patient", input: "Hi", background: true });
  assert.equal((await client.responses.cancel(made.id)).status, "cancelled");
  assert.equal((await client.responses.retrieve(made.id)).status, "cancelled");
});

test("a stream that was cut is taken up behind its last event", async () => {
  const stream = await client.responses.create({ model: "echo", input: "a b c", background: true, stream: true });
  const seen = [];
  for await (const event of stream) {
    seen.push(event);
    if (event.type === "response.output_text.delta") break;
  }
  const id = seen[0].response.id;
  const after = { stream: true, starting_after: seen.at(-1).sequence_number };
  seen.push(...(await all(await client.responses.retrieve(id, after))));
  assert.deepEqual(seen.map((event) => event.sequence_number), [...seen.keys()]);
  assert.deepEqual(seen, await all(await client.responses.retrieve(id, { stream: true })));
  const rest = client.responses.stream({ response_id: id, starting_after: 2 });
  assert.equal((await rest.finalResponse()).output_text.trim(), "You said: a b c");
});

test("conversations keep items, and responses are made in them", async () => {
  const items = [{ role: "user", content: "One" }];
  const made = await client.conversations.create({ items, metadata: { a: "b" } });
  const answer = await client.responses.create({ model: "memory", input: "Two", conversation: made.id });
  assert.equal(answer.output_text, "One | Two");
  assert.equal(answer.conversation.id, made.id);
  const listed = await all(client.conversations.items.list(made.id, { order: "asc", limit: 2 }));
  assert.deepEqual(listed.map((item) => item.content[0].text), ["One", "Two", "One | Two"]);
  const one = await client.conversations.items.retrieve(listed[0].id, { conversation_id: made.id });
  assert.deepEqual(one, listed[0]);
  const more = await client.conversations.items.create(made.id, { items: [{ role: "user", content: "Three" }] });
  assert.equal(more.data[0].content[0].text, "Three");
  assert.deepEqual((await client.conversations.update(made.id, { metadata: { c: "d" } })).metadata, { c: "d" });
  await client.conversations.delete(made.id);
  await assert.rejects(client.conversations.retrieve(made.id), OpenAI.NotFoundError);
});

test("a compacted conversation takes the place of what it holds", async () => {
  const first = await client.responses.create({ model: "memory", input: "One" });
  const { output } = await client.responses.compact({ model: "memory", previous_response_id: first.id });
  const input = [...output, { role: "user", content: "Two" }];
  assert.equal((await client.responses.create({ model: "memory", input })).output_text, "One | I heard 1 | Two");
});

test("errors are of their classes, and a failure within a stream is thrown", async () => {
  const create = (body) => client.responses.create({ model: "echo", input: "Hi", ...body });
  await assert.rejects(create({ model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(create({ previous_response_id: "resp_none" }), (error) => {
    return error instanceof OpenAI.BadRequestError && error.code === "previous_response_not_found";
  });
  await assert.rejects(create({ model: "failing" }), OpenAI.InternalServerError);
  await assert.rejects(async () => all(await create({ model: "breaking", stream: true })), OpenAI.APIError);
  await assert.rejects(client.responses.stream({ model: "breaking", input: "Hi" }).finalResponse(), OpenAI.APIError);
});

test("the WebSocket answers turn by turn on one connection", async () => {
  const socket = new ResponsesWS(client);
  const turn = async (fields) => {
    const events = [];
    const ended = new Promise((resolve, reject) => {
      const heard = (event) => {
        events.push(event);
        if (TERMINAL.includes(event.type)) socket.off("event", heard), resolve();
      };
      socket.on("event", heard);
      socket.once("error", reject);
    });
    socket.send({ type: "response.create", model: "memory", store: false, ...fields });
    await ended;
    return events.at(-1).response;
  };
  const first = await turn({ input: "One" });
  const second = await turn({ input: "Two", previous_response_id: first.id });
  assert.equal(second.output[0].content[0].text, "One | I heard 1 | Two");
  socket.close();
});
