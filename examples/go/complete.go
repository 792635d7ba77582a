// Streams a completion, meets an error, cancels another stream.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tandem "tandem/v1"
)

// codec marshals by the library that the messages were generated for. Debian's grpc brings golang/protobuf 1.3 along,
// which does not know them; beside golang/protobuf 1.4 or later neither this nor the option below is needed.
type codec struct{}

func (codec) Marshal(value interface{}) ([]byte, error) { return proto.Marshal(value.(proto.Message)) }
func (codec) Unmarshal(data []byte, value interface{}) error {
	return proto.Unmarshal(data, value.(proto.Message))
}
func (codec) Name() string { return "proto" }

func main() {
	endpoint, prompt, maxTokens := os.Args[1], os.Args[2], 48
	if len(os.Args) > 3 {
		maxTokens, _ = strconv.Atoi(os.Args[3])
	}
	connection, err := grpc.Dial(endpoint, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := tandem.NewCompletionServiceClient(connection)

	finish, err := complete(client, request(prompt, maxTokens))
	if err != nil {
		log.Fatal(err)
	}
	usage := finish.Usage
	fmt.Printf("\nfinish: %v, %d tokens, %d of %d drafted ones accepted\n", finish.Reason,
		usage.CompletionTokens, usage.AcceptedPredictionTokens, finish.Speculation.DraftedTokens)

	_, err = complete(client, request(prompt, 0))
	reason, field := details(err)
	fmt.Printf("refused: %v, reason %s, field %s\n", status.Code(err), reason, field)

	tokens, err := cancelAfter(client, request(prompt, 10000), 8)
	fmt.Printf("cancelled: %v after %d tokens\n", status.Code(err), tokens)
}

func request(prompt string, maxTokens int) *tandem.CompleteRequest {
	return &tandem.CompleteRequest{
		Prompt:    &tandem.CompleteRequest_Text{Text: prompt},
		MaxTokens: proto.Int32(int32(maxTokens)),
		Speculation: &tandem.SpeculationPolicy{
			Accept: &tandem.AcceptPolicy{Rule: &tandem.AcceptPolicy_Exact{Exact: &tandem.ExactAccept{}}},
		},
	}
}

// complete prints the text as it comes.
func complete(client tandem.CompletionServiceClient, request *tandem.CompleteRequest) (*tandem.Finish, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := client.Complete(ctx, request)
	if err != nil {
		return nil, err
	}
	var finish *tandem.Finish
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return finish, nil
		}
		if err != nil {
			return nil, err
		}
		fmt.Print(response.Text)
		if response.Finish != nil {
			finish = response.Finish
		}
	}
}

// cancelAfter ends a stream once `most` tokens have come: cancelling its context frees what the services hold for it.
func cancelAfter(client tandem.CompletionServiceClient, request *tandem.CompleteRequest, most int) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request.IgnoreEndTokens = true
	stream, err := client.Complete(ctx, request)
	if err != nil {
		return 0, err
	}
	tokens := 0
	for {
		response, err := stream.Recv()
		if err != nil {
			return tokens, err
		}
		tokens += len(response.TokenIds)
		if tokens >= most {
			cancel()
		}
	}
}

// details are the reason and the field that a service names in the google.rpc details of an error.
func details(err error) (reason, field string) {
	for _, detail := range status.Convert(err).Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = found.Reason
		case *errdetails.BadRequest:
			field = found.FieldViolations[0].Field
		}
	}
	return reason, field
}
