// Command app is what the pods of the tests run; its image holds nothing else.
//
//	app serve [DIR]    serve HTTP on port 8080; DIR/starts counts the starts
//	app get URL        print what URL answers
//	app fail           say why and exit with status 3
//	app eat            take memory until the kernel says no
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2:])
	case "get":
		get(os.Args[2])
	case "fail":
		fmt.Println("no database")
		os.Exit(3)
	case "eat":
		var held [][]byte
		for {
			block := make([]byte, 8<<20)
			for i := range block {
				block[i] = 1
			}
			held = append(held, block)
			fmt.Println(len(held)*8, "MiB")
		}
	}
}

func serve(dirs []string) {
	for _, dir := range dirs {
		file, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(file, "start")
		defer file.Close()
		go func() {
			terminated := make(chan os.Signal, 1)
			signal.Notify(terminated, syscall.SIGTERM)
			<-terminated
			fmt.Fprintln(file, "orderly end")
			os.Exit(0)
		}()
	}
	began := time.Now()
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < time.Second {
			http.Error(w, "warming up", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		name, _ := os.Hostname()
		fmt.Println("request for", r.URL.Path)
		fmt.Fprintln(w, "hello from", name)
	})
	fmt.Println("listening")
	if err := http.ListenAndServe(":8080", nil); err != nil {
		panic(err)
	}
}

func get(url string) {
	response, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer response.Body.Close()
	_, _ = io.Copy(os.Stdout, response.Body)
}
