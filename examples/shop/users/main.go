// Command users is the first service of the shop: it knows who the users are.
// Plain net/http; nothing here knows of a mesh.
//
// Built as it is, it keeps them in memory and calls nobody. With `-tags full`
// it is the one of `make demo-full`: see full.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type user struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Favourite string `json:"favourite"`
}

// A store keeps the users: in memory, or in PostgreSQL.
type store interface {
	list(ctx context.Context) ([]user, error)
	// get returns errNobody if there is no such user.
	get(ctx context.Context, id string) (user, error)
	// healthy says why the store does not answer.
	healthy(ctx context.Context) error
}

var errNobody = errors.New("no such user")

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("ends", "error", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, then lets what runs finish.
func run(ctx context.Context) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8081"
	}
	handler, closed, err := service(ctx)
	if err != nil {
		return err
	}
	defer closed()
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	slog.Info("listens", "address", listener.Addr().String())
	// One port for HTTP/1.1 and, without TLS, HTTP/2.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	return server.Shutdown(deadline)
}

// routes are those that every build has.
func routes(users store) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := users.healthy(ctx); err != nil {
			answer(w, http.StatusServiceUnavailable, map[string]string{"status": "no database", "error": err.Error()})
			return
		}
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /v1/users", func(w http.ResponseWriter, r *http.Request) {
		all, err := users.list(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, all)
	})
	mux.HandleFunc("GET /v1/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		found, err := users.get(r.Context(), r.PathValue("id"))
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, found)
	})
	return mux
}

// fail answers with what went wrong.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, errNobody) {
		status = http.StatusNotFound
	}
	answer(w, status, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil && !errors.Is(err, syscall.EPIPE) {
		slog.Warn("could not answer", "error", err)
	}
}

// logged writes one line for each request but those for health.
func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		if !quiet && !strings.HasSuffix(r.URL.Path, "/health") {
			took := time.Since(start).Round(time.Microsecond)
			slog.Info("request", "method", r.Method, "path", r.URL.Path, "status", recorder.status, "took", took)
		}
	})
}

// quiet is for a load that would fill the terminal.
var quiet = os.Getenv("LOG") == "quiet"

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Whoever reads the lines of several services stamps them.
func withoutTime(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) == 0 && attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}
