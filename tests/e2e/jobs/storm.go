// Goroutines on many threads, timers, channels, child processes. Usage: storm ROUNDS
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

func work(round, n int, out chan<- string) {
	sum := sha256.Sum256([]byte(fmt.Sprint(round, n)))
	for i := 0; i < 15000; i++ {
		sum = sha256.Sum256(sum[:])
	}
	out <- fmt.Sprintf("%x", sum[:3])
}

func child(round int) string {
	cmd := exec.Command("sort", "-n")
	var lines strings.Builder
	for i := 0; i < 500; i++ {
		fmt.Fprintln(&lines, (i*7919+round)%1009)
	}
	cmd.Stdin = strings.NewReader(lines.String())
	out, err := cmd.Output()
	return fmt.Sprintf("%x %v", sha256.Sum256(out), err)
}

func main() {
	rounds, _ := strconv.Atoi(os.Args[1])
	ticker := time.NewTicker(time.Millisecond)
	var ticks int
	go func() {
		for range ticker.C {
			ticks++
		}
	}()
	for round := 0; round < rounds; round++ {
		var wait sync.WaitGroup
		results := make([]string, 16)
		for n := range results {
			wait.Add(1)
			go func(n int) {
				defer wait.Done()
				out := make(chan string)
				go work(round, n, out)
				results[n] = <-out
			}(n)
		}
		wait.Wait()
		fmt.Println(round, strings.Join(results, " "), child(round)[:20])
	}
}
