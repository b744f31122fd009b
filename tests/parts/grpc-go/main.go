// Command grpc-go-errors makes one call that fails and prints what grpc-go
// makes of its status: `grpc-go-errors TARGET AUTHORITY`; AUTHORITY may be `-`.
// Proxy variables hold, as in every program that uses grpc-go.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	target, authority := os.Args[1], os.Args[2]
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if authority != "-" {
		options = append(options, grpc.WithAuthority(authority))
	}
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = connection.Invoke(ctx, "/grpc.testing.TestService/EmptyCall", &emptypb.Empty{}, &emptypb.Empty{})
	told := status.Convert(err)
	details := []any{}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			details = append(details, map[string]any{
				"reason": detail.Reason, "domain": detail.Domain, "metadata": detail.Metadata,
			})
		case *errdetails.RetryInfo:
			details = append(details, map[string]any{"retry_ms": detail.RetryDelay.AsDuration().Milliseconds()})
		}
	}
	answer := map[string]any{"code": told.Code(), "message": told.Message(), "details": details}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		os.Exit(1)
	}
}
