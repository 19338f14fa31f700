// Pushed is a program that a job builds into an image: in the job it pushes the image, in a Pod it serves.
//
//	pushed push FILE REFERENCE      with CI_REGISTRY_USER and CI_REGISTRY_PASSWORD, as kaniko and its like do
//	pushed                          answers on :8080
package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "push" {
		image, err := crane.Load(os.Args[2])
		if err == nil {
			login := &authn.Basic{Username: os.Getenv("CI_REGISTRY_USER"), Password: os.Getenv("CI_REGISTRY_PASSWORD")}
			err = crane.Push(image, os.Args[3], crane.WithAuth(login))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("pushed", os.Args[3])
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "well") })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
}
