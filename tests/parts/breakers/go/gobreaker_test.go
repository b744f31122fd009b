// Plays traces of calls and clock steps to gobreaker, on a clock of its own,
// and says what it makes of them. It is a test only because the clock of
// testing/synctest runs nowhere else.
//
// A trace begins with `new MAX_REQUESTS INTERVAL_MS`. Then `t MS` lets time
// pass, `b ID` begins a call, `s ID` and `f ID` end it well or badly. Each line
// is answered with whether the call may be made (1 for all other lines) and the
// state.
package breakers

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
)

func TestTrace(t *testing.T) {
	in := bufio.NewScanner(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	var trace []string
	play := func() {
		if len(trace) > 0 {
			synctest.Test(t, func(*testing.T) { run(trace, out) })
		}
		trace = nil
	}
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "new ") {
			play()
		}
		trace = append(trace, line)
	}
	play()
}

func run(trace []string, out *bufio.Writer) {
	var breaker *gobreaker.TwoStepCircuitBreaker[any]
	calls := map[int]func(error){}
	for _, line := range trace {
		var word string
		var first, second int
		fmt.Sscan(line, &word, &first, &second)
		allowed := 1
		switch word {
		case "new":
			breaker = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
				MaxRequests: uint32(first),
				Interval:    time.Duration(second) * time.Millisecond,
			})
		case "t":
			time.Sleep(time.Duration(first) * time.Millisecond)
		case "b":
			done, err := breaker.Allow()
			if err != nil {
				allowed = 0
			} else {
				calls[first] = done
			}
		case "s", "f":
			var err error
			if word == "f" {
				err = errors.New("failed")
			}
			// One that it refused and ours did not: the two differ already.
			if done := calls[first]; done != nil {
				done(err)
			}
			delete(calls, first)
		}
		state := "-"
		// To ask changes it, where the clock has moved.
		if word != "t" {
			state = strings.ReplaceAll(breaker.State().String(), "-", "_")
		}
		fmt.Fprintln(out, "=", allowed, state)
	}
}
