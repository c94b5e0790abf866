// A closed-loop load generator for etcd, on its native Go client.
//
// N workers each keep one request in flight over at most eight connections. One JSON object on stdout says
// what came of it. `-op failover` instead writes every 5 ms, moves to the next endpoint when a write fails,
// and prints the largest gap between two acknowledgements. `-op watch` writes to the first endpoint, watches at
// the second, and measures from the start of each write to its event.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const (
	keys            = 1000
	maxConnections  = 8
	requestTimeout  = 10 * time.Second
	failoverTimeout = 200 * time.Millisecond
)

func key(number int) string { return fmt.Sprintf("key-%012d", number) }

func open(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 2 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	return client
}

func put(client *clientv3.Client, key, value string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := client.Put(ctx, key, value)
	return err
}

func get(client *clientv3.Client, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	_, err := client.Get(ctx, key) // linearizable is etcd's default
	return err
}

// one worker's requests: the latencies of the good ones in ns, and how many failed
type tally struct {
	latencies []int64
	errors    int
}

type load struct {
	op       string
	inFlight int
	fill     int
	value    string
	stop     time.Time
}

// request sends the worker's next request; more is false when the worker is done.
func (l load) request(client *clientv3.Client, worker, turn int) (more bool, err error) {
	if l.op == "fill" {
		number := worker + turn*l.inFlight
		if number >= l.fill {
			return false, nil
		}
		return true, put(client, "fill-"+key(number), l.value, requestTimeout)
	}
	if time.Now().After(l.stop) {
		return false, nil
	}
	name := key((worker*7919 + turn*104729) % keys)
	if l.op == "get" {
		return true, get(client, name)
	}
	return true, put(client, name, l.value, requestTimeout)
}

func (l load) work(client *clientv3.Client, worker int) (t tally) {
	for turn := 0; ; turn++ {
		began := time.Now()
		more, err := l.request(client, worker, turn)
		if !more {
			return t
		}
		if err != nil {
			t.errors++
			continue
		}
		t.latencies = append(t.latencies, time.Since(began).Nanoseconds())
	}
}

func percentile(sorted []int64, fraction float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(fraction*float64(len(sorted)-1))]) / 1e6
}

func report(tallies []tally, elapsed time.Duration) {
	var all []int64
	errors := 0
	for _, t := range tallies {
		all = append(all, t.latencies...)
		errors += t.errors
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"ops_per_s": float64(len(all)) / elapsed.Seconds(),
		"p50_ms":    percentile(all, 0.50),
		"p99_ms":    percentile(all, 0.99),
		"errors":    errors,
	})
}

func closedLoop(l load, endpoint string, duration time.Duration) {
	connections := l.inFlight
	if connections > maxConnections {
		connections = maxConnections
	}
	clients := make([]*clientv3.Client, connections)
	for i := range clients {
		clients[i] = open(endpoint)
		if err := put(clients[i], key(0), l.value, requestTimeout); err != nil {
			log.Fatal(err)
		}
	}
	if l.op == "get" {
		for i := 0; i < keys; i++ {
			if err := put(clients[0], key(i), l.value, requestTimeout); err != nil {
				log.Fatal(err)
			}
		}
	}
	tallies := make([]tally, l.inFlight)
	began := time.Now()
	l.stop = began.Add(duration)
	var group sync.WaitGroup
	for worker := range tallies {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			tallies[worker] = l.work(clients[worker%connections], worker)
		}(worker)
	}
	group.Wait()
	report(tallies, time.Since(began))
}

func failover(endpoints []string, value string, duration time.Duration) {
	clients := make([]*clientv3.Client, len(endpoints))
	for i, endpoint := range endpoints {
		clients[i] = open(endpoint)
		if err := put(clients[i], key(0), value, requestTimeout); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("ready")
	current, last, gap := 0, time.Now(), time.Duration(0)
	stop := last.Add(duration)
	for range time.Tick(5 * time.Millisecond) {
		if time.Now().After(stop) {
			break
		}
		if put(clients[current], key(0), value, failoverTimeout) != nil {
			current = (current + 1) % len(clients)
			continue
		}
		if now := time.Now(); now.Sub(last) > gap {
			gap = now.Sub(last)
		}
		last = time.Now()
	}
	json.NewEncoder(os.Stdout).Encode(map[string]float64{"gap_ms": float64(gap.Microseconds()) / 1e3})
}

func watch(endpoints []string, value string, duration time.Duration) {
	writer, watcher := open(endpoints[0]), open(endpoints[1])
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	defer cancel()
	first, err := writer.Put(ctx, key(0), value)
	if err != nil {
		log.Fatal(err)
	}
	// The follower may not have applied the first write yet, so "from now on" would still include it.
	next := clientv3.WithRev(first.Header.Revision + 1)
	events := watcher.Watch(ctx, "key-", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), next)
	<-events
	var t tally
	began := time.Now()
	for turn := 0; time.Since(began) < duration; turn++ {
		start := time.Now()
		acknowledged := make(chan error, 1)
		go func() { acknowledged <- put(writer, key(turn*104729%keys), value, requestTimeout) }()
		if answer := <-events; len(answer.Events) != 1 || answer.Err() != nil {
			log.Fatalf("one write gave %d events: %v", len(answer.Events), answer.Err())
		}
		t.latencies = append(t.latencies, time.Since(start).Nanoseconds())
		if err := <-acknowledged; err != nil {
			t.errors++
		}
	}
	report([]tally{t}, time.Since(began))
}

func main() {
	op := flag.String("op", "put", "put, get, fill, failover or watch")
	endpoints := flag.String("endpoints", "", "comma separated; all but failover and watch use the first")
	inFlight := flag.Int("in-flight", 64, "workers, each with one request in flight")
	duration := flag.Duration("duration", 4*time.Second, "how long (put, get, failover)")
	size := flag.Int("value-bytes", 256, "size of a value")
	fill := flag.Int("fill", 100000, "how many keys fill writes")
	flag.Parse()
	value := strings.Repeat("abcdefghijklmnopqrstuvwxyz", *size/26+1)[:*size]
	list := strings.Split(*endpoints, ",")
	if *op == "failover" {
		failover(list, value, *duration)
		return
	}
	if *op == "watch" {
		watch(list, value, *duration)
		return
	}
	closedLoop(load{op: *op, inFlight: *inFlight, fill: *fill, value: value}, list[0], *duration)
}
