// Clients of databases and brokers, with the drivers that Go services use:
// `clients KIND PORT QUIET COUNT`. Each ends well only if nothing failed, was
// lost or came twice.
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"time"
)

// What a client is told.
type task struct {
	port  int
	quiet time.Duration
	count int
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("clients KIND PORT QUIET COUNT")
	}
	seconds := number(os.Args[3])
	t := task{port: number(os.Args[2]), quiet: time.Duration(seconds) * time.Second, count: number(os.Args[4])}
	kinds := map[string]func(task) (string, error){"postgres": postgres, "rabbitmq": rabbitmq, "kafka": kafka}
	client, known := kinds[os.Args[1]]
	if !known {
		log.Fatalf("no client %s", os.Args[1])
	}
	begun := time.Now()
	said, err := client(t)
	if err != nil {
		log.Fatalf("%s: %v", os.Args[1], err)
	}
	fmt.Printf("%s in Go: %s, in %.1f s\n", os.Args[1], said, time.Since(begun).Seconds())
}

func number(word string) int {
	n, err := strconv.Atoi(word)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// Holds that each of `count` numbers was seen once.
func eachOnce(seen map[int]int, count int) error {
	for number := range count {
		if seen[number] != 1 {
			return fmt.Errorf("%d came %d times", number, seen[number])
		}
	}
	if len(seen) != count {
		return fmt.Errorf("%d numbers instead of %d", len(seen), count)
	}
	return nil
}
