// Command load sends HTTP requests at a constant rate, whatever the answers do, and logs each
// answer as one line of JSON. It is open loop: a slow answer does not hold back the next request.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	mostInFlight = 1000
	mostBody     = 1 << 20
)

// answer is one line of the log.
type answer struct {
	Time       time.Time `json:"time"` // when the request started, UTC
	URL        string    `json:"url"`
	Status     int       `json:"status"`     // 0 when there was no answer
	Seconds    float64   `json:"seconds"`    // until the last byte
	AnsweredBy string    `json:"answeredBy"` // the body's "hostname", if it is JSON and has one
	Error      string    `json:"error"`
}

// write logs the answer in one write, which os.File does not mix with those of other goroutines.
func (a answer) write() {
	line, err := json.Marshal(a)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		log.Fatal(err)
	}
}

// ask sends one request and reads its answer to the end.
func ask(client *http.Client, address string) answer {
	a := answer{Time: time.Now().UTC(), URL: address}
	var body []byte
	response, err := client.Get(address)
	if err == nil {
		a.Status = response.StatusCode
		body, err = io.ReadAll(io.LimitReader(response.Body, mostBody))
		response.Body.Close()
	}
	a.Seconds, a.Error = time.Since(a.Time).Seconds(), short(err)
	var named struct{ Hostname string }
	if json.Unmarshal(body, &named) == nil {
		a.AnsweredBy = named.Hostname
	}
	return a
}

// short is an error without the URL, which is logged beside it.
func short(err error) string {
	var timeout interface{ Timeout() bool }
	var wrapped *url.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &wrapped):
		return wrapped.Err.Error()
	}
	return err.Error()
}

func main() {
	var urls []string
	flag.Func("url", "what to ask, repeatable (round robin)", func(text string) error {
		urls = append(urls, text)
		_, err := url.ParseRequestURI(text)
		return err
	})
	rate := flag.Float64("rate", 20, "requests per second in all")
	timeout := flag.Duration("timeout", 5*time.Second, "longest wait for an answer")
	connections := flag.String("connections", "new", "new: one connection per request; keep: connections are used again")
	flag.Parse()
	if len(urls) == 0 || *rate <= 0 || (*connections != "new" && *connections != "keep") {
		fmt.Fprintln(os.Stderr, "load: needs --url, a --rate above 0, and --connections new or keep")
		os.Exit(2)
	}
	client := &http.Client{
		Timeout:       *timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: *connections == "new", MaxIdleConnsPerHost: mostInFlight},
	}
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	var asking sync.WaitGroup
	free := make(chan struct{}, mostInFlight)
	for i, start := 0, time.Now(); ; i++ {
		// The n-th request has its own time: a delay of this loop is made up for, not passed on.
		select {
		case <-stop.Done():
			asking.Wait() // no longer than the timeout
			return
		case <-time.After(time.Until(start.Add(time.Duration(float64(i) / *rate * float64(time.Second))))):
		}
		address := urls[i%len(urls)]
		select {
		case free <- struct{}{}:
			asking.Go(func() { ask(client, address).write(); <-free })
		default:
			answer{Time: time.Now().UTC(), URL: address, Error: "dropped: too many requests in flight"}.write()
		}
	}
}
