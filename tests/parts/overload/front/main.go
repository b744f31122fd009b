// The first tier of the overload: what the user calls. It asks the middle tier,
// as often as TRIES says, each time for at most a second.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

var (
	middle = os.Getenv("MIDDLE") // such as http://middle; HTTP_PROXY leads there
	asked  atomic.Int64
	client = &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 256,
	}}
)

func once(ctx context.Context, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", middle+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

func pass(tries int, path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for range tries {
			status, err := once(r.Context(), path)
			if err == nil && status == http.StatusOK {
				fmt.Fprintln(w, "ok")
				return
			}
		}
		http.Error(w, "the middle tier did not answer", http.StatusServiceUnavailable)
	}
}

func main() {
	tries, err := strconv.Atoi(os.Getenv("TRIES"))
	if err != nil {
		log.Fatal("TRIES is not a number")
	}
	http.HandleFunc("GET /own", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("GET /price", pass(tries, "/price"))
	http.HandleFunc("GET /stock", pass(tries, "/stock"))
	http.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, asked.Load()) })
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
