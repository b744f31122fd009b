// The gateway of a shop, written by hand with chi: what ../pillion.yaml says in
// YAML. PORT, USERS and ORDERS say where it listens and where calls go.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/time/rate"
)

const (
	maxBody = 64 << 10
	timeout = 500 * time.Millisecond
	origin  = "https://shop.example"
)

var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// problem answers as RFC 9457 says.
func problem(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Pillion-Error", reason)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "reason": reason})
}

// What belongs to one connection is not passed on.
var hop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func passOn(to, from http.Header) {
	dropped := slices.Clone(hop)
	for _, list := range from.Values("Connection") {
		for name := range strings.SplitSeq(list, ",") {
			dropped = append(dropped, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, values := range from {
		if !slices.Contains(dropped, name) {
			to[name] = slices.Clone(values)
		}
	}
}

// forward sends a request on to base, with strip taken from its path.
func forward(base, strip string, tries int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			problem(w, http.StatusRequestEntityTooLarge, "request_too_large")
			return
		} else if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		target := base + strings.TrimPrefix(r.URL.EscapedPath(), strip)
		if r.URL.RawQuery != "" {
			target += "?" + r.URL.RawQuery
		}
		for try := 1; ; try++ {
			answer, err := send(ctx, r, target, body)
			again := try < tries && (err != nil || answer.StatusCode >= 502 && answer.StatusCode <= 504)
			if again && ctx.Err() == nil {
				if err == nil {
					answer.Body.Close()
				}
				continue
			}
			if err != nil {
				fail(w, ctx, err)
				return
			}
			defer answer.Body.Close()
			passOn(w.Header(), answer.Header)
			w.Header().Del("Server")
			w.Header().Set("X-Gateway", "shop")
			w.WriteHeader(answer.StatusCode)
			_, _ = io.Copy(w, answer.Body)
			return
		}
	}
}

func send(ctx context.Context, r *http.Request, target string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	passOn(request.Header, r.Header)
	request.Header.Del("X-Internal")
	request.Header.Set("X-From", "gateway")
	return client.Do(request)
}

func fail(w http.ResponseWriter, ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		problem(w, http.StatusGatewayTimeout, "timeout")
		return
	}
	log.Print(err)
	problem(w, http.StatusBadGateway, "connect_refused")
}

func none(w http.ResponseWriter, _ *http.Request) {
	problem(w, http.StatusNotFound, "no_route")
}

// cors lets pages of the shop call, and answers what browsers ask before.
func cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") == "" {
			none(w, r)
			return
		}
		w.Header().Add("Vary", "Origin")
		if r.Header.Get("Origin") != origin {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
			w.Header().Set("Access-Control-Allow-Headers", "content-type")
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limited admits so many calls a second from each address.
func limited(perSecond float64, burst int) func(http.Handler) http.Handler {
	var lock sync.Mutex
	limiters := map[string]*rate.Limiter{}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			source, _, _ := net.SplitHostPort(r.RemoteAddr)
			lock.Lock()
			// It grows for ever: who sweeps it?
			limiter := limiters[source]
			if limiter == nil {
				limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
				limiters[source] = limiter
			}
			lock.Unlock()
			if !limiter.Allow() {
				w.Header().Set("Retry-After", strconv.Itoa(1))
				problem(w, http.StatusTooManyRequests, "rate_limited")
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func main() {
	users, orders := "http://"+os.Getenv("USERS"), "http://"+os.Getenv("ORDERS")
	router := chi.NewRouter()
	router.NotFound(none)
	router.MethodNotAllowed(none)
	router.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "ok\n")
	})
	router.Get("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/api/users")
		w.WriteHeader(http.StatusFound)
	})
	router.Group(func(api chi.Router) {
		api.Use(cors)
		read := forward(users, "/api", 2)
		for _, path := range []string{"/api/users", "/api/users/{id}"} {
			api.Get(path, read)
			api.Options(path, none)
		}
		write := forward(orders, "/api", 1)
		api.With(limited(1, 3)).Post("/api/orders", write)
		api.Get("/api/orders/{id}", forward(orders, "/api", 2))
		api.Options("/api/orders", none)
		api.Options("/api/orders/{id}", none)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), router))
}
