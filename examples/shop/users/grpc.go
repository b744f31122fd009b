//go:build full

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"users/shopv1"
)

// usersServer is shop.v1.Users.
type usersServer struct {
	shopv1.UnimplementedUsersServer
	users postgres
	news  *news
	// ending is closed when the service is told to end.
	ending <-chan struct{}
}

func (s *usersServer) Get(ctx context.Context, request *shopv1.GetUserRequest) (*shopv1.User, error) {
	found, err := s.users.get(ctx, request.GetId())
	if errors.Is(err, errNobody) {
		return nil, nobody(request.GetId())
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return message(found), nil
}

func (s *usersServer) Watch(_ *shopv1.WatchUsersRequest, stream grpc.ServerStreamingServer[shopv1.User]) error {
	// First listen, then look: whoever comes in between is told twice.
	coming, leave := s.news.join()
	defer leave()
	all, err := s.users.list(stream.Context())
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	for _, one := range all {
		if err := stream.Send(message(one)); err != nil {
			return err
		}
	}
	for {
		select {
		case one, open := <-coming:
			if !open {
				return status.Error(codes.Unavailable, "too slow: watch again")
			}
			if err := stream.Send(message(one)); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.ending:
			return status.Error(codes.Unavailable, "users ends")
		}
	}
}

// nobody is an error that a program can read: which resource is missing.
func nobody(id string) error {
	described, err := status.New(codes.NotFound, "no such user").WithDetails(
		&errdetails.ResourceInfo{ResourceType: "shop.v1.User", ResourceName: id, Owner: "users"})
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return described.Err()
}

func message(u user) *shopv1.User {
	return &shopv1.User{Id: u.ID, Name: u.Name, Favourite: u.Favourite}
}

// news hands each new user to all who watch.
type news struct {
	mu       sync.Mutex
	watchers map[chan user]struct{}
}

func (n *news) join() (<-chan user, func()) {
	watcher := make(chan user, 64)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watchers[watcher] = struct{}{}
	return watcher, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watchers, watcher)
	}
}

func (n *news) tell(who user) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for watcher := range n.watchers {
		select {
		case watcher <- who:
		default:
			delete(n.watchers, watcher)
			close(watcher)
		}
	}
}

// place sends a basket to `orders`, one item after another.
func place(ctx context.Context, orders shopv1.OrdersClient, id string, items []string) ([]int64, error) {
	stream, err := orders.Place(ctx)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		// An error of Send is io.EOF; CloseAndRecv tells what happened.
		if stream.Send(&shopv1.NewOrder{User: id, Item: item}) != nil {
			break
		}
	}
	receipt, err := stream.CloseAndRecv()
	return receipt.GetOrders(), err
}

// failed answers with what another service said, details and all.
func failed(w http.ResponseWriter, err error) {
	said := status.Convert(err)
	code := http.StatusBadGateway
	switch said.Code() {
	case codes.InvalidArgument:
		code = http.StatusBadRequest
	case codes.NotFound:
		code = http.StatusNotFound
	}
	body, err := protojson.Marshal(said.Proto())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, code, map[string]any{"error": json.RawMessage(body)})
}
