// A service that registers itself with Consul, and a client that finds services,
// as Go programs do it with hashicorp/consul/api.
//
//	consul-go serve NAME ADDRESS PORT   registers ADDRESS:PORT with an HTTP check
//	                                    on /health, and serves at 127.0.0.1:PORT
//	consul-go find NAME                 prints the healthy instances, one a line
//	consul-go follow NAME               the same whenever they change
//
// Where Consul is and with which token: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"
)

func main() {
	log.SetFlags(0)
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	switch args := os.Args[1:]; {
	case len(args) == 4 && args[0] == "serve":
		err = serve(client, args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "find":
		err = find(client, args[1], false)
	case len(args) == 2 && args[0] == "follow":
		err = find(client, args[1], true)
	default:
		log.Fatal("consul-go serve NAME ADDRESS PORT | find NAME | follow NAME")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Serves until SIGTERM, then takes itself out.
func serve(client *api.Client, name, address, port string) error {
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "well") })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s\n", name, r.URL.Path) })
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe("127.0.0.1:"+port, nil) }()
	registration := &api.AgentServiceRegistration{
		ID: name + "-1", Name: name, Address: address, Port: number, Tags: []string{"go"},
		Check: &api.AgentServiceCheck{
			HTTP: "http://127.0.0.1:" + port + "/health", Interval: "10s", Timeout: "2s",
			DeregisterCriticalServiceAfter: "1m",
		},
	}
	if err := client.Agent().ServiceRegister(registration); err != nil {
		return err
	}
	fmt.Println("registered")
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	select {
	case err := <-failed:
		return err
	case <-ended:
		return client.Agent().ServiceDeregister(name + "-1")
	}
}

// Prints the healthy instances, sorted: address, port, tags.
func find(client *api.Client, name string, again bool) error {
	var index uint64
	var last []string
	for {
		options := &api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}
		entries, meta, err := client.Health().Service(name, "", true, options)
		if err != nil {
			return err
		}
		index = meta.LastIndex
		found := []string{}
		for _, entry := range entries {
			address := entry.Service.Address
			if address == "" {
				address = entry.Node.Address
			}
			found = append(found, fmt.Sprintf("%s:%d %s", address, entry.Service.Port, strings.Join(entry.Service.Tags, ",")))
		}
		slices.Sort(found)
		if last == nil || !slices.Equal(found, last) {
			fmt.Println(strings.Join(found, "; "))
		}
		last = found
		if !again {
			return nil
		}
	}
}
