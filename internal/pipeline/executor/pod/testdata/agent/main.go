// Command agent is the part of keelson that runs in the Pods of jobs, and nothing else, so that tests have it soon.
package main

import (
	"os"

	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

func main() { os.Exit(agent.Main(os.Args[2:])) }
