// Command service is what a job's service is in tests: it listens on port 8080, a while after it has started, and tells a variable. With an
// argument it ends with that code.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		code, _ := strconv.Atoi(os.Args[1])
		fmt.Println("the service ends")
		os.Exit(code)
	}
	time.Sleep(1500 * time.Millisecond)
	fmt.Println(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "greeting="+os.Getenv("GREETING"))
	})))
}
