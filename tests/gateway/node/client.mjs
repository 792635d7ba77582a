// Calls the service with npm's official `openai` package; prints what it found as JSON. Arguments: base URL.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const options = { model: "tiny", messages, max_tokens: 20, seed: 7 };
const found = {};

found.models = (await client.models.list()).data.map((model) => model.id);

const whole = await client.chat.completions.create({ ...options, logprobs: true, top_logprobs: 1 });
found.text = whole.choices[0].message.content;
found.logprobs = whole.choices[0].logprobs.content.length;
found.usage = whole.usage;
found.metrics = whole.metrics;

const stream = await client.chat.completions.create({
  ...options, stream: true, stream_options: { include_usage: true },
});
found.streamed = "";
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
  found.streamedUsage = chunk.usage;
}

const legacy = await client.completions.create({ model: "tiny:off", prompt: ["Hi", "Ho"], max_tokens: 5, seed: 7 });
found.legacy = legacy.choices.map((choice) => choice.text);

const schema = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
const parsed = await client.chat.completions.create({
  ...options, max_tokens: 200, response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } },
});
found.parsed = JSON.parse(parsed.choices[0].message.content);

try {
  await client.chat.completions.create({ ...options, temperature: -1 });
} catch (error) {
  found.error = { kind: error.constructor.name, status: error.status, param: error.param, code: error.code };
}

const left = await client.chat.completions.create({ ...options, max_tokens: 400, ignore_eos: true, stream: true });
for await (const _ of left) break; // leaves

console.log(JSON.stringify(found));
