//go:build !linux

package agent

import "errors"

func serve() error { return errors.New("jobs in Pods run on Linux only") }
