// Command users is the first service of the shop: it knows who the users are
// and calls nobody. Plain net/http; nothing here knows of a mesh.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

type user struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Favourite string `json:"favourite"`
}

var users = []user{
	{ID: "1", Name: "Ada", Favourite: "tea"},
	{ID: "2", Name: "Grace", Favourite: "coffee"},
	{ID: "3", Name: "Linus", Favourite: "tea"},
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, then lets what runs finish.
func run(ctx context.Context) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8081"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	log.Printf("listens on %s", listener.Addr())
	server := &http.Server{Handler: logged(routes()), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(deadline)
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /v1/users", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, users)
	})
	mux.HandleFunc("GET /v1/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		index := slices.IndexFunc(users, func(u user) bool { return u.ID == r.PathValue("id") })
		if index < 0 {
			answer(w, http.StatusNotFound, map[string]string{"error": "no such user"})
			return
		}
		answer(w, http.StatusOK, users[index])
	})
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil && !errors.Is(err, syscall.EPIPE) {
		log.Printf("answer: %v", err)
	}
}

// logged writes one line for each request but those for health.
func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		if r.URL.Path != "/health" {
			log.Printf("%s %s %d %s", r.Method, r.URL.Path, recorder.status, time.Since(start).Round(time.Microsecond))
		}
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
