import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;
import tandem.v1.Completion.CompleteRequest;
import tandem.v1.Completion.CompleteResponse;
import tandem.v1.Completion.Finish;
import tandem.v1.CompletionServiceGrpc;
import tandem.v1.CompletionServiceGrpc.CompletionServiceBlockingStub;
import tandem.v1.Policy.AcceptPolicy;
import tandem.v1.Policy.ExactAccept;
import tandem.v1.Policy.SpeculationPolicy;

/** Streams a completion, meets an error, cancels another stream. */
public final class Complete {
  public static void main(String[] arguments) throws Exception {
    String prompt = arguments[1];
    int maxTokens = arguments.length > 2 ? Integer.parseInt(arguments[2]) : 48;
    ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    CompletionServiceBlockingStub stub = CompletionServiceGrpc.newBlockingStub(channel);
    try {
      Finish finish = complete(stub, request(prompt, maxTokens).build());
      System.out.printf("%nfinish: %s, %d tokens, %d of %d drafted ones accepted%n", finish.getReason(),
          finish.getUsage().getCompletionTokens(), finish.getUsage().getAcceptedPredictionTokens(),
          finish.getSpeculation().getDraftedTokens());
      try {
        complete(stub, request(prompt, 0).build());
      } catch (StatusRuntimeException error) {
        System.out.println("refused: " + error.getStatus().getCode() + details(error));
      }
      cancelAfter(stub, request(prompt, 10_000).setIgnoreEndTokens(true).build(), 8);
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private static CompleteRequest.Builder request(String prompt, int maxTokens) {
    AcceptPolicy exact = AcceptPolicy.newBuilder().setExact(ExactAccept.getDefaultInstance()).build();
    return CompleteRequest.newBuilder().setText(prompt).setMaxTokens(maxTokens)
        .setSpeculation(SpeculationPolicy.newBuilder().setAccept(exact));
  }

  /** Prints the text as it comes. */
  private static Finish complete(CompletionServiceBlockingStub stub, CompleteRequest request) {
    Finish finish = Finish.getDefaultInstance();
    Iterator<CompleteResponse> responses = stub.withDeadlineAfter(1, TimeUnit.MINUTES).complete(request);
    while (responses.hasNext()) {
      CompleteResponse response = responses.next();
      System.out.print(response.getText());
      System.out.flush();
      if (response.hasFinish()) {
        finish = response.getFinish();
      }
    }
    return finish;
  }

  /** Ends a stream once {@code most} tokens have come: cancelling its context frees what the services hold for it. */
  private static void cancelAfter(CompletionServiceBlockingStub stub, CompleteRequest request, int most) {
    Context.CancellableContext context = Context.current().withCancellation();
    context.run(() -> {
      int tokens = 0;
      try {
        Iterator<CompleteResponse> responses = stub.complete(request);
        while (responses.hasNext()) {
          tokens += responses.next().getTokenIdsCount();
          if (tokens >= most) {
            context.cancel(null);
          }
        }
      } catch (StatusRuntimeException error) {
        System.out.println("cancelled: " + Status.fromThrowable(error).getCode() + " after " + tokens + " tokens");
      }
    });
  }

  /** The reason and the field that a service names in the google.rpc details of an error. */
  private static String details(StatusRuntimeException error) throws Exception {
    StringBuilder found = new StringBuilder();
    for (com.google.protobuf.Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        found.append(", reason ").append(detail.unpack(ErrorInfo.class).getReason());
      } else if (detail.is(BadRequest.class)) {
        found.append(", field ").append(detail.unpack(BadRequest.class).getFieldViolations(0).getField());
      }
    }
    return found.toString();
  }
}
