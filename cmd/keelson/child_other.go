//go:build !linux

package main

import "syscall"

// childAttr makes a child that a terminal's Ctrl-C does not reach.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
