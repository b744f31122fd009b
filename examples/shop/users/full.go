//go:build full

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"users/shopv1"
)

// service keeps the users in PostgreSQL, tells RabbitMQ of new ones, serves
// gRPC on the same port, and calls `orders` over gRPC.
func service(ctx context.Context) (http.Handler, func(), error) {
	users, err := openDatabase(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, nil, err
	}
	// grpc-go takes the way there from HTTPS_PROXY: a CONNECT to the name.
	connection, err := grpc.NewClient("passthrough:///orders:80", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	told := &events{url: os.Getenv("RABBITMQ_URL")}
	watched := &news{watchers: map[chan user]struct{}{}}

	server := grpc.NewServer()
	shopv1.RegisterUsersServer(server, &usersServer{users: users, news: watched, ending: ctx.Done()})

	mux := routes(users)
	mux.HandleFunc("POST /v1/users", func(w http.ResponseWriter, r *http.Request) {
		create(w, r, users, told, watched)
	})
	mux.HandleFunc("POST /v1/users/{id}/basket", func(w http.ResponseWriter, r *http.Request) {
		basket(w, r, shopv1.NewOrdersClient(connection))
	})
	rest := logged(mux)
	both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			server.ServeHTTP(w, r)
		} else {
			rest.ServeHTTP(w, r)
		}
	})
	return both, func() { connection.Close(); users.pool.Close() }, nil
}

// create keeps a user once the broker has taken the event of it.
func create(w http.ResponseWriter, r *http.Request, users postgres, told *events, watched *news) {
	var who user
	if err := json.NewDecoder(r.Body).Decode(&who); err != nil || who.Name == "" {
		answer(w, http.StatusBadRequest, map[string]string{"error": "a user has a name"})
		return
	}
	who.Favourite = cmp.Or(who.Favourite, "tea")
	who, err := users.add(r.Context(), who, func(who user) error {
		return told.publish(r.Context(), "user.created", who.ID, who)
	})
	if err != nil {
		fail(w, err)
		return
	}
	watched.tell(who)
	w.Header().Set("Location", "/v1/users/"+who.ID)
	answer(w, http.StatusCreated, who)
}

// basket places an order for each item, all or none.
func basket(w http.ResponseWriter, r *http.Request, orders shopv1.OrdersClient) {
	var asked struct {
		Items []string `json:"items"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	placed, err := place(r.Context(), orders, r.PathValue("id"), asked.Items)
	if err != nil {
		failed(w, err)
		return
	}
	answer(w, http.StatusCreated, map[string]any{"orders": placed})
}
