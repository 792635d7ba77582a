// Streams a completion, meets an error, cancels another stream.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tandem/v1/completion.grpc.pb.h"

using tandem::v1::CompleteRequest;
using tandem::v1::CompleteResponse;
using tandem::v1::CompletionService;

CompleteRequest MakeRequest(const std::string& prompt, int max_tokens) {
  CompleteRequest request;
  request.set_text(prompt);
  request.set_max_tokens(max_tokens);
  request.mutable_speculation()->mutable_accept()->mutable_exact();
  return request;
}

// Prints the text as it comes.
grpc::Status Complete(CompletionService::Stub& stub, const CompleteRequest& request, tandem::v1::Finish& finish) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  auto reader = stub.Complete(&context, request);
  CompleteResponse response;
  while (reader->Read(&response)) {
    std::cout << response.text() << std::flush;
    if (response.has_finish()) finish = response.finish();
  }
  return reader->Finish();
}

// Ends a stream once `most` tokens have come: cancelling its context frees what the services hold for it.
grpc::Status CancelAfter(CompletionService::Stub& stub, CompleteRequest request, int most, int& tokens) {
  grpc::ClientContext context;
  request.set_ignore_end_tokens(true);
  auto reader = stub.Complete(&context, request);
  CompleteResponse response;
  while (reader->Read(&response)) {
    tokens += response.token_ids_size();
    if (tokens >= most) context.TryCancel();
  }
  return reader->Finish();
}

// What a service says of an error in its google.rpc details.
void PrintRefusal(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  std::string reason = "unknown", field = "unknown";
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info)) reason = info.reason();
    if (detail.UnpackTo(&bad)) field = bad.field_violations(0).field();
  }
  std::cout << "refused: " << (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ? "INVALID_ARGUMENT" : "?")
            << ", reason " << reason << ", field " << field << std::endl;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: complete HOST:PORT PROMPT [MAX_TOKENS]" << std::endl;
    return 2;
  }
  const std::string prompt = argv[2];
  auto stub = CompletionService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));

  tandem::v1::Finish finish;
  grpc::Status status = Complete(*stub, MakeRequest(prompt, argc > 3 ? std::atoi(argv[3]) : 48), finish);
  if (!status.ok()) {
    std::cerr << status.error_message() << std::endl;
    return 1;
  }
  std::cout << "\nfinish: " << FinishReason_Name(finish.reason()) << ", " << finish.usage().completion_tokens()
            << " tokens, " << finish.usage().accepted_prediction_tokens() << " of "
            << finish.speculation().drafted_tokens() << " drafted ones accepted" << std::endl;

  PrintRefusal(Complete(*stub, MakeRequest(prompt, 0), finish));

  int tokens = 0;
  status = CancelAfter(*stub, MakeRequest(prompt, 10000), 8, tokens);
  std::cout << "cancelled: " << (status.error_code() == grpc::StatusCode::CANCELLED ? "CANCELLED" : "not") << " after "
            << tokens << " tokens" << std::endl;
}
