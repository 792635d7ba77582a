// Streams a completion, meets an error, cancels another stream: with @grpc/grpc-js and nothing generated.
'use strict';

const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTOS = process.env.PROTOS || path.join(__dirname, '../../protos');
const GOOGLEAPIS = process.env.GOOGLEAPIS; // the folder that has google/rpc/error_details.proto
const { tandem } = grpc.loadPackageDefinition(
  loader.loadSync('tandem/v1/completion.proto', {
    includeDirs: [PROTOS], keepCase: true, enums: String, longs: Number, defaults: true,
  }),
);

// Writes the text as it comes. Resolves to the last message, rejects with the error that ended the call.
function complete(client, request) {
  return new Promise((resolve, reject) => {
    const call = client.Complete(request, { deadline: Date.now() + 60_000 });
    let last;
    call.on('data', (response) => {
      process.stdout.write(response.text);
      last = response;
    });
    call.on('error', reject);
    call.on('end', () => resolve(last));
  });
}

// Resolves to how the call ended once `most` tokens have come and it was cancelled.
function cancelAfter(client, request, most) {
  return new Promise((resolve) => {
    const call = client.Complete(request);
    let tokens = 0;
    call.on('data', (response) => {
      tokens += response.token_ids.length;
      if (tokens >= most) call.cancel();
    });
    call.on('error', (error) => resolve(`${grpc.status[error.code]} after ${tokens} tokens`));
    call.on('end', () => resolve(`not: it ended after ${tokens} tokens`));
  });
}

// The reason and the field that a service names, out of the google.rpc details of an error.
function details(error) {
  const found = { reason: 'unknown', field: 'unknown' };
  const [packed] = error.metadata.get('grpc-status-details-bin');
  if (!packed || !GOOGLEAPIS) return found;
  const root = new protobuf.Root();
  root.resolvePath = (origin, target) => {
    const file = path.join(GOOGLEAPIS, target);
    return fs.existsSync(file) ? file : target;
  };
  root.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto']);
  for (const { type_url: url, value } of root.lookupType('google.rpc.Status').decode(packed).details) {
    const detail = root.lookupType(url.split('/').pop()).decode(value);
    if (url.endsWith('google.rpc.ErrorInfo')) found.reason = detail.reason;
    if (url.endsWith('google.rpc.BadRequest')) found.field = detail.fieldViolations[0].field;
  }
  return found;
}

async function main(endpoint, prompt, maxTokens) {
  const client = new tandem.v1.CompletionService(endpoint, grpc.credentials.createInsecure());
  const lossless = { stop: { adasd: {} }, accept: { exact: {} } };
  const { finish } = await complete(client, { text: prompt, max_tokens: maxTokens, speculation: lossless });
  const { usage, speculation } = finish;
  const accepted = `${usage.accepted_prediction_tokens} of ${speculation.drafted_tokens} drafted ones accepted`;
  console.log(`\nfinish: ${finish.reason}, ${usage.completion_tokens} tokens, ${accepted}`);

  await complete(client, { text: prompt, max_tokens: 0 }).catch((error) => {
    const { reason, field } = details(error);
    console.log(`refused: ${grpc.status[error.code]}, reason ${reason}, field ${field}`);
  });

  const endless = { text: prompt, max_tokens: 10_000, ignore_end_tokens: true };
  console.log(`cancelled: ${await cancelAfter(client, endless, 8)}`);
  client.close();
}

main(process.argv[2], process.argv[3], Number(process.argv[4] || 48));
