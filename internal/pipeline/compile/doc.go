// Package compile makes the graph of a configuration for one event. It is pure.
package compile
