// A WebSocket echo in Go, with github.com/coder/websocket:
//
//	server            prints "listening ADDRESS" and echoes
//	client URL COUNT  sends the messages of ../README.md and compares what comes back
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const largest = 1 << 20

var (
	letters = cycle(26, func(at int) byte { return 'a' + byte(at) })
	numbers = cycle(256, func(at int) byte { return byte(at * 7) })
)

func cycle(length int, value func(int) byte) []byte {
	all := make([]byte, largest+2*length)
	for at := range all {
		all[at] = value(at % length)
	}
	return all
}

// size of a message: mostly small, now and then up to 1 MiB.
func size(number int) int {
	switch {
	case number%997 == 211:
		return largest
	case number%101 == 50:
		return 65_500 + number%100
	case number%13 == 0:
		return 0
	case number%10 == 5:
		return 100 + number%60
	}
	return number * 37 % 125
}

func message(number int) (websocket.MessageType, []byte) {
	if number%2 == 1 {
		text := bytes.Clone(letters[number%26 : number%26+size(number)])
		if len(text) >= 3 {
			copy(text[len(text)-3:], "→")
		}
		return websocket.MessageText, text
	}
	return websocket.MessageBinary, numbers[number%256 : number%256+size(number)]
}

// send writes a message in one frame or, with parts, in several.
func send(ctx context.Context, socket *websocket.Conn, kind websocket.MessageType, data []byte, parts bool) error {
	if !parts {
		return socket.Write(ctx, kind, data)
	}
	writer, err := socket.Writer(ctx, kind)
	if err != nil {
		return err
	}
	third := len(data) / 3
	for _, part := range [][]byte{data[:third], data[third : 2*third], data[2*third:]} {
		if _, err := writer.Write(part); err != nil {
			return err
		}
	}
	return writer.Close()
}

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("listening %s\n", listener.Addr())
	return http.Serve(listener, http.HandlerFunc(echo))
}

func echo(answer http.ResponseWriter, request *http.Request) {
	options := &websocket.AcceptOptions{InsecureSkipVerify: true}
	socket, err := websocket.Accept(answer, request, options)
	if err != nil {
		return
	}
	defer socket.CloseNow()
	socket.SetReadLimit(largest)
	for number := 0; ; number++ {
		kind, data, err := socket.Read(request.Context())
		if err != nil {
			return
		}
		if send(request.Context(), socket, kind, data, number%5 == 2) != nil {
			return
		}
		if number%50 == 10 {
			// Its answer is read with the next message.
			go socket.Ping(request.Context())
		}
	}
}

func call(url string, count int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	socket.SetReadLimit(largest)
	var pongs atomic.Int64
	failed := make(chan error, 2)
	go func() {
		for number := range count {
			kind, data := message(number)
			if err := send(ctx, socket, kind, data, number%7 == 3); err != nil {
				failed <- fmt.Errorf("message %d was not sent: %w", number, err)
				return
			}
			if number%50 == 25 {
				if err := socket.Ping(ctx); err != nil {
					failed <- fmt.Errorf("no pong after message %d: %w", number, err)
					return
				}
				pongs.Add(1)
			}
		}
		failed <- nil
	}()
	for number := range count {
		kind, data, err := socket.Read(ctx)
		if err != nil {
			return fmt.Errorf("message %d did not come back: %w", number, err)
		}
		if wanted, bytesWanted := message(number); kind != wanted || !bytes.Equal(data, bytesWanted) {
			return fmt.Errorf("message %d came back changed: %d bytes", number, len(data))
		}
	}
	// The last pong has to be read.
	socket.CloseRead(ctx)
	if err := <-failed; err != nil {
		return err
	}
	if err := socket.Close(websocket.StatusNormalClosure, "done"); err != nil {
		return fmt.Errorf("no proper close: %w", err)
	}
	fmt.Printf("ok %d, %d pings\n", count, pongs.Load())
	return nil
}

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "server":
		err = serve()
	case len(os.Args) == 4 && os.Args[1] == "client":
		var count int
		if count, err = strconv.Atoi(os.Args[3]); err == nil {
			err = call(os.Args[2], count)
		}
	default:
		err = fmt.Errorf("server, or client URL COUNT")
	}
	if err != nil {
		log.Fatal(err)
	}
}
