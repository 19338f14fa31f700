package main

import "syscall"

// childAttr makes a child that ends when this process ends, however it ends, and that a terminal's Ctrl-C does not reach.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
