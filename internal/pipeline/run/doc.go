// Package run plays a graph: it starts what the scheduler has made pending, and tells it what came of it.
package run
