// The Vercel AI SDK, through its providers for chat completions and for Responses.

import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.INN}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "sk-anything" });
const compatible = createOpenAICompatible({
  name: "inn", baseURL, apiKey: "sk-anything", includeUsage: true, supportsStructuredOutputs: true,
});
const ASKS = 'call weather {"city": "Paris"}\ncall weather {"city": "Rome"}';
const TOLD = "weather returned Sunny in Paris. weather returned Sunny in Rome.";
const weather = tool({
  description: "The weather.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `Sunny in ${city}`,
});
const place = z.object({ city: z.string(), sunny: z.boolean() });
const SURFACES = { "chat completions": compatible, Responses: openai };

for (const [surface, provider] of Object.entries(SURFACES)) {
  const asking = (model, prompt) => ({ model: provider(model), prompt, maxRetries: 0 });

  for (const model of ["echo", "scripted", "toolbox", "thinking"]) {
    test(`${surface}: ${model} is generated and streamed alike`, async () => {
      const whole = await generateText(asking(model, "Hi"));
      assert.equal(whole.finishReason, "stop");
      const parts = [];
      const streamed = streamText(asking(model, "Hi"));
      for await (const part of streamed.textStream) parts.push(part);
      assert.equal(parts.join(""), whole.text);
      assert.equal(await streamed.finishReason, "stop");
      assert.equal((await streamed.reasoningText) ?? "", model === "thinking" ? "Hm. Yes." : "");
      if (model === "scripted") assert.ok((await streamed.usage).totalTokens > 0);
    });
  }

  test(`${surface}: tools are called, at once and streamed, until there is an answer`, async () => {
    const body = { ...asking("scripted", ASKS), tools: { weather }, stopWhen: isStepCount(3) };
    const whole = await generateText(body);
    assert.equal(whole.text, TOLD);
    assert.deepEqual(whole.steps.map((step) => step.toolCalls.length), [2, 0]);
    const streamed = streamText(body);
    await streamed.consumeStream();
    assert.equal((await streamed.steps).at(-1).text, TOLD);
  });

  test(`${surface}: objects are generated`, async () => {
    const { object } = await generateObject({ ...asking("scripted", "Where?"), schema: place });
    assert.equal(typeof object.city, "string");
    const { output } = await generateText({ ...asking("scripted", "Where?"), output: Output.object({ schema: place }) });
    assert.deepEqual(output, object);
  });

  test(`${surface}: a conversation with what was answered is sent back`, async () => {
    const first = await generateText(asking("memory", "One"));
    const messages = [{ role: "user", content: "One" }, ...first.responseMessages, { role: "user", content: "Two" }];
    const second = await generateText({ model: provider("memory"), messages, maxRetries: 0 });
    assert.equal(second.text, "One | I heard 1 | Two");
  });

  test(`${surface}: failures are told, before the stream and within it`, async () => {
    await assert.rejects(generateText(asking("nobody", "Hi")), { name: "AI_APICallError", statusCode: 404 });
    const errors = [];
    const streamed = streamText({ ...asking("breaking", "Hi"), onError: ({ error }) => errors.push(error) });
    await streamed.consumeStream();
    assert.equal(errors.length, 1);
  });
}

test("Responses: what is said before is known behind previousResponseId", async () => {
  const ask = (prompt, options) => {
    return generateText({ model: openai("memory"), prompt, maxRetries: 0, providerOptions: { openai: options } });
  };
  const first = await ask("One", {});
  const previousResponseId = first.providerMetadata.openai.responseId;
  assert.equal((await ask("Two", { previousResponseId })).text, "One | I heard 1 | Two");
});
